//! What a recorder sees of a tree is what is laid out again.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use failcore_gate::{Sink, SinkError, Witness};
use failcore_model::input::Input;
use failcore_model::{AbsPath, Event, Record, Timestamp};
use failcore_policy::{Environment, PolicySet};
use failcore_record::{Keeping, Objects, Recorder, Recording, Store, Unready};
use proptest::prelude::*;

#[derive(Default)]
struct Kept(Mutex<Vec<Event>>);

impl Sink for Kept {
    fn append(&self, event: &Event) -> Result<(), SinkError> {
        self.0.lock().unwrap().push(event.clone());
        Ok(())
    }
}

impl Kept {
    fn recording(&self) -> Recording {
        let started = Event::RecordingStarted { start: Box::default() };
        let events = std::iter::once(started).chain(self.0.lock().unwrap().clone());
        let record = |(seq, event)| Ok::<_, ()>(Record { seq, ts: Timestamp(1), session: "s".into(), event });
        Recording::read((0..).zip(events).map(record)).unwrap()
    }

    fn contents(&self, of: &Path) -> Option<(u64, bool)> {
        let path = of.as_os_str().as_encoded_bytes();
        self.0.lock().unwrap().iter().find_map(|event| match event {
            Event::Input { path: at, input: Input::Contents { size, kept, .. } } if at.as_bytes() == path => {
                Some((*size, *kept))
            }
            _ => None,
        })
    }
}

struct Recorded {
    home: tempfile::TempDir,
    kept: Arc<Kept>,
    recorder: Recorder,
}

impl Recorded {
    /// Paths of libraries are relative to the tree, and made there.
    fn with(mut keeping: Keeping) -> Self {
        let home = tempfile::tempdir().unwrap();
        let tree = home.path().join("tree");
        fs::create_dir(&tree).unwrap();
        for library in &mut keeping.libraries {
            *library = tree.join(&library);
            fs::create_dir(library).unwrap();
        }
        let kept = Arc::new(Kept::default());
        let recorder =
            Recorder::start(Store::create(home.path()).unwrap(), Arc::clone(&kept) as _, keeping).unwrap();
        Self { home, kept, recorder }
    }

    fn tree(&self) -> PathBuf {
        self.home.path().join("tree").canonicalize().unwrap()
    }

    fn looks(&self, path: &Path) {
        self.recorder.looks(b"/nowhere", path.as_os_str().as_encoded_bytes(), false).unwrap();
    }

    fn opens(&self, path: &Path) {
        self.looks(path);
        self.recorder.opens(File::open(path).unwrap().as_fd()).unwrap();
    }

    /// The tree as it is laid out.
    fn laid_out(&self) -> (tempfile::TempDir, PathBuf) {
        self.recorder.finish().unwrap();
        let root = tempfile::tempdir().unwrap();
        self.kept.recording().lay_out(root.path(), &Objects::open(self.home.path()).unwrap(), &[]).unwrap();
        let tree = root.path().join(self.tree().strip_prefix("/").unwrap());
        (root, tree)
    }
}

/// What can be seen of a tree, below its root.
fn seen(tree: &Path) -> BTreeMap<PathBuf, (u32, i64, i64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![tree.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let stat = path.symlink_metadata().unwrap();
            let (mode, held) = if stat.is_symlink() {
                (0, fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes())
            } else if stat.is_dir() {
                dirs.push(path.clone());
                (stat.mode(), Vec::new())
            } else {
                (stat.mode(), fs::read(&path).unwrap())
            };
            let time = if stat.is_symlink() { (0, 0) } else { (stat.mtime(), stat.mtime_nsec()) };
            found.insert(path.strip_prefix(tree).unwrap().to_owned(), (mode, time.0, time.1, held));
        }
    }
    found
}

fn record_all(recorded: &Recorded, tree: &Path) {
    recorded.opens(tree);
    for path in seen(tree).keys() {
        let path = tree.join(path);
        match path.symlink_metadata().unwrap() {
            stat if stat.is_symlink() => recorded.looks(&path),
            _ => recorded.opens(&path),
        }
    }
}

/// Something in a directory.
#[derive(Debug, Clone)]
enum Thing {
    File(Vec<u8>, u32),
    Link(String),
    Directory(BTreeMap<String, Thing>),
}

fn things() -> impl Strategy<Value = BTreeMap<String, Thing>> {
    let name = "[a-zA-Z0-9 .ä]{1,12}".prop_filter("a name", |name| name != "." && name != "..");
    let file = (prop::collection::vec(any::<u8>(), 0..200), 0o400u32..0o1000)
        .prop_map(|(held, mode)| Thing::File(held, mode | 0o400));
    let leaf = prop_oneof![file, "[a-z./]{1,12}".prop_map(Thing::Link)];
    let thing = leaf.prop_recursive(3, 24, 6, {
        let name = name.clone();
        move |inner| prop::collection::btree_map(name.clone(), inner, 0..6).prop_map(Thing::Directory)
    });
    prop::collection::btree_map(name, thing, 0..8)
}

fn make(dir: &Path, things: &BTreeMap<String, Thing>) {
    for (name, thing) in things {
        let path = dir.join(name);
        match thing {
            Thing::File(held, mode) => {
                fs::write(&path, held).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
            }
            Thing::Link(target) => symlink(target, &path).unwrap(),
            Thing::Directory(things) => {
                fs::create_dir(&path).unwrap();
                make(&path, things);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn what_was_seen_is_laid_out(things in things()) {
        let recorded = Recorded::with(Keeping::default());
        let tree = recorded.tree();
        make(&tree, &things);
        record_all(&recorded, &tree);
        let (_root, again) = recorded.laid_out();
        prop_assert_eq!(seen(&again), seen(&tree));
    }
}

#[test]
fn the_first_look_counts() {
    let recorded = Recorded::with(Keeping::default());
    let tree = recorded.tree();
    fs::write(tree.join("read"), "first").unwrap();
    fs::write(tree.join("moves"), "moves").unwrap();
    fs::write(tree.join("emptied"), "was").unwrap();
    for name in ["read", "moves", "emptied", "made", "dir/below"] {
        recorded.looks(&tree.join(name));
    }
    recorded.opens(&tree.join("read"));
    fs::write(tree.join("read"), "second").unwrap();
    recorded.opens(&tree.join("read"));
    // What the program made, and what it moved before it read it.
    fs::write(tree.join("made"), "made").unwrap();
    recorded.opens(&tree.join("made"));
    recorded.looks(&tree.join("moved"));
    fs::rename(tree.join("moves"), tree.join("moved")).unwrap();
    recorded.opens(&tree.join("moved"));
    let emptied = File::create(tree.join("emptied")).unwrap();
    recorded.recorder.opens(emptied.as_fd()).unwrap();
    recorded.opens(&tree.join("emptied"));
    let (_root, again) = recorded.laid_out();
    let read = |name: &str| fs::read(again.join(name)).unwrap();
    assert_eq!((read("read"), read("moves")), (b"first".to_vec(), b"moves".to_vec()));
    assert_eq!(read("emptied"), [0; 3], "its length is all that was learnt");
    for name in ["made", "moved", "dir"] {
        assert!(!again.join(name).exists(), "{name}");
    }
}

#[test]
fn links_lead_where_they_led() {
    let recorded = Recorded::with(Keeping::default());
    let tree = recorded.tree();
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::write(tree.join("a/b/file"), "here").unwrap();
    symlink("a", tree.join("one")).unwrap();
    symlink(tree.join("one/b"), tree.join("two")).unwrap();
    symlink("loop", tree.join("loop")).unwrap();
    let asked = tree.join("two/../b/./file");
    recorded.recorder.looks(b"/", asked.as_os_str().as_encoded_bytes(), true).unwrap();
    recorded.recorder.opens(File::open(&asked).unwrap().as_fd()).unwrap();
    recorded.recorder.looks(tree.as_os_str().as_encoded_bytes(), b"loop/x", true).unwrap();
    let (_root, again) = recorded.laid_out();
    assert_eq!(fs::read(again.join("one/b/file")).unwrap(), b"here");
    assert_eq!(fs::read_link(again.join("two")).unwrap(), tree.join("one/b"));
    assert!(fs::read(again.join("loop")).is_err());
}

/// As a policy with this in it says.
fn saying(record: &str) -> Keeping {
    let text = format!("version = 1\n[record]\n{record}");
    let policy = PolicySet::parse("p", &text, &AbsPath::root(), &Environment::default()).unwrap();
    Keeping { payloads: policy.payloads().clone(), ..Keeping::default() }
}

#[test]
fn the_policy_says_what_is_kept() {
    for (record, self_contained, kept) in [
        ("", false, [true, true, false]),
        ("", true, [true, true, true]),
        ("hash_only = [\"**/*.bin\"]", false, [true, false, false]),
        ("hash_only = [\"**/*.bin\"]", true, [true, false, true]),
        ("keep = [\"**/b.bin\", \"**/lib\"]", false, [false, true, true]),
        ("keep = [\"**/b.bin\"]\nhash_only = [\"**/*.bin\"]", false, [false, false, false]),
        ("keep = []", true, [true, true, true]),
    ] {
        let mut keeping = Keeping { self_contained, ..saying(record) };
        keeping.libraries.push(PathBuf::from("lib"));
        let recorded = Recorded::with(keeping);
        let tree = recorded.tree();
        let files = ["a.txt", "b.bin", "lib/c"].map(|name| tree.join(name));
        for file in &files {
            fs::write(file, file.as_os_str().as_encoded_bytes()).unwrap();
            recorded.opens(file);
        }
        let found = files.map(|file| recorded.kept.contents(&file).unwrap().1);
        assert_eq!(found, kept, "{record} {self_contained}");
    }
}

#[test]
fn what_would_be_more_than_the_policy_lets_it_be_is_not_learnt() {
    let recorded = Recorded::with(saying("max_total = 5000"));
    let tree = recorded.tree();
    let opens = |name: &str, byte: u8| {
        let file = tree.join(name);
        fs::write(&file, [byte; 2000]).unwrap();
        recorded.recorder.looks(b"/", file.as_os_str().as_encoded_bytes(), true).unwrap();
        recorded.recorder.opens(File::open(&file).unwrap().as_fd())
    };
    // Each once: the same again takes no more room.
    for (name, byte) in [("a", 1), ("b", 2), ("again", 1)] {
        opens(name, byte).unwrap();
    }
    assert_eq!(recorded.recorder.full(), None);
    assert!(opens("c", 3).is_err() && opens("d", 4).is_err());
    let why = recorded.recorder.finish().unwrap_err();
    assert_eq!(why, "`record.max_total` is 5000, and the recording needs 6000");
    assert_eq!(recorded.recorder.full(), Some(why.as_str()));
}

#[test]
fn what_is_long_or_a_library_is_known_by_its_hash() {
    let recorded = Recorded::with(saying("max_file = 3000"));
    let tree = recorded.tree();
    fs::write(tree.join("short"), [7; 3000]).unwrap();
    fs::write(tree.join("long"), vec![7; 5 << 20]).unwrap();
    recorded.opens(&tree.join("short"));
    recorded.opens(&tree.join("long"));
    assert_eq!(recorded.kept.contents(&tree.join("short")), Some((3000, true)));
    assert_eq!(recorded.kept.contents(&tree.join("long")), Some((5 << 20, false)));
    let (_root, again) = recorded.laid_out();
    assert_eq!(fs::read(again.join("long")).unwrap(), vec![7; 5 << 20]);
    fs::write(tree.join("long"), "other").unwrap();
    let root = tempfile::tempdir().unwrap();
    let laid_out =
        recorded.kept.recording().lay_out(root.path(), &Objects::open(recorded.home.path()).unwrap(), &[]);
    assert!(matches!(laid_out, Err(Unready::Changed(path)) if path == tree.join("long")));
}
