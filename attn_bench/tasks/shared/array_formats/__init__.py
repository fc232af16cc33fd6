"""The formats of array files, one module each; ``array_files.py`` in the parent folder chooses one."""
