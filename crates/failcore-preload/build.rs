//! How the object is linked. Every program of a run loads it, so what it costs to load counts: each segment is a mapping and
//! pages to touch, each symbol a look-up in all that the program loaded before.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for argument in [
        // Nothing of it needs the start files, whose four symbols are looked for in vain.
        "-nostartfiles",
        // What is read and what is run in one segment, as linkers laid them out before they kept gadgets apart: the C library
        // beside it has more of those. Rust's own linker keeps them apart all the same.
        "-fuse-ld=bfd",
        "-Wl,-z,noseparate-code",
        // Written once, when it is loaded, and a system call to close after that.
        "-Wl,-z,norelro",
    ] {
        println!("cargo::rustc-cdylib-link-arg={argument}");
    }
}
