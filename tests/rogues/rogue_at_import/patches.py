"""Replaces functions of the standard library, and then provides a model that works."""

import builtins
import hashlib
import json

from toy_plugins import Toy

json.dumps = lambda *arguments, **options: "{}"
json.JSONEncoder.encode = lambda self, value: "{}"
hashlib.sha256 = hashlib.md5
builtins.print = lambda *arguments, **options: None


class Patches(Toy):
    name = "at-import-patches"
