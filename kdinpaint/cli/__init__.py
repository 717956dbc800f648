"""The command line, made from typed configurations."""
