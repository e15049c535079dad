"""The file formats in which people publish Llamas."""
