"""The formats that arrays are read from, one module each; ``array_files.py`` beside this folder chooses one."""
