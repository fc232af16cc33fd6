"""Raises an object that is not an Exception."""


class Odd(BaseException):
    pass


raise Odd("not an Exception")
