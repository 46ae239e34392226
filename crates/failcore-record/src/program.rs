//! What the kernel opens by itself to run a program: the interpreter of a script, the loader of an ELF file.

use elf::ElfBytes;
use elf::abi::PT_INTERP;
use elf::endian::AnyEndian;

/// The path that the kernel opens beside this image, if it does (execve(2), elf(5)).
pub(crate) fn helper(image: &[u8]) -> Option<Vec<u8>> {
    if let Some(line) = image.strip_prefix(b"#!") {
        // The kernel looks at the first 256 bytes.
        let line = line[..line.len().min(254)].split(|byte| *byte == b'\n').next()?;
        let mut words = line.split(|byte| matches!(byte, b' ' | b'\t' | 0));
        return words.find(|word| !word.is_empty()).map(<[u8]>::to_vec);
    }
    let elf = ElfBytes::<AnyEndian>::minimal_parse(image).ok()?;
    let segment = elf.segments()?.iter().find(|segment| segment.p_type == PT_INTERP)?;
    let path = elf.segment_data(&segment).ok()?;
    path.split(|byte| *byte == 0).next().filter(|path| !path.is_empty()).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_and_programs_say_who_reads_them() {
        assert_eq!(helper(b"#!/bin/sh -e\nx"), Some(b"/bin/sh".to_vec()));
        assert_eq!(helper(b"#! \t/usr/bin/env python"), Some(b"/usr/bin/env".to_vec()));
        assert_eq!(helper(b"#!\n"), None);
        assert_eq!(helper(b"just text"), None);
        let sh = std::fs::read("/bin/sh").unwrap();
        let loader = helper(&sh).expect("a shell is linked to libraries");
        assert!(
            loader.starts_with(b"/") && std::path::Path::new(std::str::from_utf8(&loader).unwrap()).exists()
        );
        assert_eq!(helper(&sh[..100]), None);
    }
}
