//! Nothing in a trace can be changed unseen, and the first record that was is named.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{closed, decided, opened, writer};
use failcore_model::Event;
use failcore_trace::{Alteration, Flaw, Integrity, SigningKey, VerifyingKey, verify};
use proptest::prelude::*;

/// A closed trace with short records, so that every byte can be tried.
fn short(dir: &Path) -> SigningKey {
    let (mut writer, key) = writer(dir, 3, 400);
    writer.append(&opened()).unwrap();
    for n in 0..6 {
        writer.append(&Event::Notice { text: format!("n{n}") }).unwrap();
    }
    writer.close(Some(0)).unwrap();
    key
}

fn check(dir: &Path, key: &VerifyingKey) -> Integrity {
    verify(dir, Some(key)).expect("what was altered is no error").integrity
}

fn altered(dir: &Path, key: &VerifyingKey, what: &str) -> Alteration {
    match check(dir, key) {
        Integrity::Altered(alteration) => alteration,
        other => panic!("{what}: {other:?}"),
    }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
        .collect();
    // `trace.jsonl` is the first, though it sorts last.
    files.sort_by_key(|path| (path.file_name().unwrap().len(), path.clone()));
    files
}

#[test]
fn every_flipped_byte_is_found_and_its_record_named() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("run");
    let key = short(&dir).verifying_key();
    assert_eq!(check(&dir, &key), Integrity::Valid);
    let mut first = 0;
    let files = segments(&dir);
    assert!(files.len() > 2);
    for file in files {
        let whole = fs::read(&file).unwrap();
        for at in 0..whole.len() {
            let record = first + whole[..at].iter().filter(|b| **b == b'\n').count() as u64;
            for mask in [0x01, 0x20, 0x80] {
                let mut flipped = whole.clone();
                flipped[at] ^= mask;
                fs::write(&file, &flipped).unwrap();
                let found = altered(&dir, &key, &format!("{} byte {at} ^ {mask}", file.display()));
                assert_eq!((found.seq, found.through), (record, None), "byte {at} of {}", file.display());
            }
        }
        fs::write(&file, &whole).unwrap();
        first += whole.iter().filter(|b| **b == b'\n').count() as u64;
    }
    assert_eq!(check(&dir, &key), Integrity::Valid);
}

#[test]
fn every_flipped_byte_beside_the_records_is_found() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("run");
    let key = short(&dir).verifying_key();
    for name in ["checkpoints", "leaves", "policy.toml"] {
        let whole = fs::read(dir.join(name)).unwrap();
        for at in 0..whole.len() {
            for bit in [0, 5, 7] {
                let mut flipped = whole.clone();
                flipped[at] ^= 1 << bit;
                fs::write(dir.join(name), &flipped).unwrap();
                let found = altered(&dir, &key, &format!("{name} byte {at} bit {bit}"));
                assert_eq!(found.file, dir.join(name), "byte {at} bit {bit}");
            }
        }
        fs::write(dir.join(name), &whole).unwrap();
    }
    // The key beside the trace is only believed where no other is given.
    let whole = fs::read(dir.join("key.pub")).unwrap();
    for at in 0..whole.len() - 1 {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        fs::write(dir.join("key.pub"), &flipped).unwrap();
        assert!(!verify(&dir, None).is_ok_and(|report| report.is_valid()), "key.pub byte {at}");
        assert_eq!(check(&dir, &key), Integrity::Valid);
    }
}

#[test]
fn every_cut_is_found() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("run");
    let key = short(&dir).verifying_key();
    let mut first = 0;
    for file in segments(&dir) {
        let whole = fs::read(&file).unwrap();
        for len in 0..whole.len() {
            fs::write(&file, &whole[..len]).unwrap();
            let found = altered(&dir, &key, &format!("{} cut to {len}", file.display()));
            let lines = whole[..len].iter().filter(|b| **b == b'\n').count() as u64;
            assert_eq!((found.seq, found.through), (first + lines, None), "{} cut to {len}", file.display());
        }
        fs::write(&file, &whole).unwrap();
        first += whole.iter().filter(|b| **b == b'\n').count() as u64;
    }
    for name in ["checkpoints", "leaves"] {
        let whole = fs::read(dir.join(name)).unwrap();
        for len in 0..whole.len() {
            fs::write(dir.join(name), &whole[..len]).unwrap();
            match check(&dir, &key) {
                Integrity::Valid => panic!("{name} cut to {len}"),
                Integrity::NotClosed { unsigned, .. } => assert!(unsigned > 0 && name == "checkpoints"),
                Integrity::Altered(_) => {}
            }
        }
        fs::write(dir.join(name), &whole).unwrap();
    }
    let last = segments(&dir).pop().unwrap();
    fs::remove_file(last).unwrap();
    assert_eq!(altered(&dir, &key, "a segment is gone").flaw, Flaw::Cut);
}

#[test]
fn what_was_done_is_said() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("run");
    let key = closed(&dir, 12, 5, u64::MAX).verifying_key();
    let file = dir.join("trace.jsonl");
    let whole = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    let with = |edit: &dyn Fn(&mut Vec<&str>)| {
        let mut edited = lines.clone();
        edit(&mut edited);
        fs::write(&file, edited.concat()).unwrap();
        let found = altered(&dir, &key, "edit");
        (found.seq, found.line, found.flaw)
    };
    assert_eq!(with(&|lines| _ = lines.remove(7)), (7, Some(8), Flaw::Removed));
    assert_eq!(with(&|lines| lines.insert(3, "{}\n")), (3, Some(4), Flaw::Inserted));
    assert_eq!(with(&|lines| lines.swap(6, 7)), (6, Some(7), Flaw::Reordered));
    assert_eq!(with(&|lines| lines[4] = "{}\n"), (4, Some(5), Flaw::Changed));
    assert_eq!(with(&|lines| lines.truncate(9)), (9, None, Flaw::Cut));
    assert_eq!(with(&|lines| lines.push("{}\n")), (12, Some(13), Flaw::Added));
    assert_eq!(with(&|lines| lines.push("{")), (12, Some(13), Flaw::Added));
}

#[test]
fn without_leaf_hashes_the_checkpoints_still_bound_the_place() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("run");
    let key = closed(&dir, 12, 5, u64::MAX).verifying_key();
    fs::remove_file(dir.join("leaves")).unwrap();
    assert_eq!(altered(&dir, &key, "leaves gone").flaw, Flaw::Leaves);
    let text =
        fs::read_to_string(dir.join("trace.jsonl")).unwrap().replace("module_6/input", "module_6/inqut");
    fs::write(dir.join("trace.jsonl"), text).unwrap();
    let found = altered(&dir, &key, "changed");
    assert_eq!((found.seq, found.through, found.flaw), (5, Some(9), Flaw::Changed));
}

#[test]
fn files_of_another_trace_do_not_fit() {
    let home = tempfile::tempdir().unwrap();
    let (one, two) = (home.path().join("one"), home.path().join("two"));
    let key = closed(&one, 12, 5, u64::MAX).verifying_key();
    let other = closed(&two, 12, 5, u64::MAX).verifying_key();
    for name in ["trace.jsonl", "checkpoints", "leaves"] {
        let kept = fs::read(one.join(name)).unwrap();
        fs::copy(two.join(name), one.join(name)).unwrap();
        altered(&one, &key, name);
        fs::write(one.join(name), kept).unwrap();
    }
    assert_eq!(check(&one, &key), Integrity::Valid);
    altered(&one, &other, "the wrong key");
}

#[test]
fn a_torn_last_line_is_told_apart() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("run");
    let (mut writer, key) = writer(&dir, 4, u64::MAX);
    writer.append(&opened()).unwrap();
    for op in 0..4 {
        writer.append(&decided(op)).unwrap();
    }
    drop(writer);
    let file = dir.join("trace.jsonl");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() - 10]).unwrap();
    let torn = check(&dir, &key.verifying_key());
    assert!(matches!(torn, Integrity::NotClosed { unsigned: 0, torn: Some(_) }), "{torn:?}");
    // What no checkpoint covers must still read as the next record.
    let text = String::from_utf8(whole).unwrap().replace(r#""seq":4"#, r#""seq":5"#);
    fs::write(&file, text).unwrap();
    assert!(matches!(altered(&dir, &key.verifying_key(), "foreign").flaw, Flaw::Foreign(_)));
}

#[derive(Debug, Clone)]
enum Edit {
    Flip(usize, u8),
    Remove(usize),
    Repeat(usize),
    Swap(usize, usize),
    Cut(usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        (any::<usize>(), 1u8..).prop_map(|(at, mask)| Edit::Flip(at, mask)),
        any::<usize>().prop_map(Edit::Remove),
        any::<usize>().prop_map(Edit::Repeat),
        any::<(usize, usize)>().prop_map(|(a, b)| Edit::Swap(a, b)),
        any::<usize>().prop_map(Edit::Cut),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_edit_is_found_at_its_first_record(
        records in 3u64..60, every in 1u64..20, edits in proptest::collection::vec(edit(), 1..4)
    ) {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("run");
        let key = closed(&dir, records, every, u64::MAX).verifying_key();
        let file = dir.join("trace.jsonl");
        let whole = fs::read(&file).unwrap();
        let mut lines: Vec<Vec<u8>> = whole.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
        for edit in edits {
            let n = lines.len().max(1);
            match edit {
                _ if lines.is_empty() => {}
                Edit::Flip(at, mask) => {
                    let line = &mut lines[at % n];
                    let at = at / n % line.len();
                    line[at] ^= mask;
                }
                Edit::Remove(at) => _ = lines.remove(at % n),
                Edit::Repeat(at) => lines.insert(at % n, lines[at % n].clone()),
                Edit::Swap(a, b) => lines.swap(a % n, b % n),
                Edit::Cut(at) => lines.truncate(at % n),
            }
        }
        let edited = lines.concat();
        fs::write(&file, &edited).unwrap();
        if edited == whole {
            prop_assert_eq!(check(&dir, &key), Integrity::Valid);
        } else {
            let same = whole.iter().zip(&edited).take_while(|(a, b)| a == b).count();
            let expected = whole[..same].iter().filter(|b| **b == b'\n').count() as u64;
            let found = altered(&dir, &key, "edited");
            prop_assert_eq!((found.seq, found.through), (expected, None));
        }
    }

    #[test]
    fn any_bytes_at_all_are_judged_without_a_panic(
        trace in proptest::collection::vec(any::<u8>(), 0..300),
        checkpoints in "(failcore/a\n[0-9]{1,3}\n[A-Za-z0-9+/=]{0,44}\n|\n|— failcore [A-Za-z0-9+/=]{0,92}\n|.{0,9}){0,6}",
        leaves in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let home = tempfile::tempdir().unwrap();
        let key = SigningKey::generate().unwrap().verifying_key();
        fs::write(home.path().join("trace.jsonl"), &trace).unwrap();
        fs::write(home.path().join("checkpoints"), &checkpoints).unwrap();
        fs::write(home.path().join("leaves"), &leaves).unwrap();
        prop_assert_ne!(check(home.path(), &key), Integrity::Valid);
        let _ = failcore_trace::Reader::open(home.path()).unwrap().count();
    }
}
