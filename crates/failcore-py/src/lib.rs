//! Enforcement in the interpreter: the native audit hook and the Python classes.
