"""What is said about an error."""

from attn_bench.cli.error_messages import interrupted


def test_an_interruption_is_found_behind_the_error_that_it_caused():
    error = RuntimeError("the library gave up")
    error.__context__ = KeyboardInterrupt()
    assert interrupted(error)
    assert not interrupted(RuntimeError("no interruption"))
    assert not interrupted(None)


def test_errors_that_caused_each_other_have_an_end():
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert not interrupted(one)
