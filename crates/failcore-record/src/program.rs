//! What the kernel opens by itself to run a program: the interpreter of a script, the loader of an ELF file.

use elf::abi::{EI_NIDENT, PT_INTERP};
use elf::endian::AnyEndian;
use elf::file::{FileHeader, parse_ident};
use elf::segment::SegmentTable;

/// The path that the kernel opens beside this image, if it does (execve(2), elf(5)). Its beginning is enough: what an ELF
/// file says of its segments stands there, and what it says of its sections at its end.
pub(crate) fn helper(image: &[u8]) -> Option<Vec<u8>> {
    if let Some(line) = image.strip_prefix(b"#!") {
        // The kernel looks at the first 256 bytes.
        let line = line[..line.len().min(254)].split(|byte| *byte == b'\n').next()?;
        let mut words = line.split(|byte| matches!(byte, b' ' | b'\t' | 0));
        return words.find(|word| !word.is_empty()).map(<[u8]>::to_vec);
    }
    let ident = parse_ident::<AnyEndian>(image.get(..EI_NIDENT)?).ok()?;
    let header = FileHeader::parse_tail(ident, &image[EI_NIDENT..]).ok()?;
    let part = |start: u64, len: u64| {
        image.get(usize::try_from(start).ok()?..usize::try_from(start.checked_add(len)?).ok()?)
    };
    let table = part(header.e_phoff, u64::from(header.e_phnum) * u64::from(header.e_phentsize))?;
    let segments = SegmentTable::new(header.endianness, header.class, table);
    let segment = segments.iter().find(|segment| segment.p_type == PT_INTERP)?;
    let path = part(segment.p_offset, segment.p_filesz)?;
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
        assert_eq!(helper(&sh[..4096]), Some(loader), "its beginning says so");
        for cut in [4, 15, 16, 60, 100] {
            assert_eq!(helper(&sh[..cut]), None);
        }
    }
}
