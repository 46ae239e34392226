//! What is mounted where (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// What is mounted, as this process sees it.
#[derive(Debug, Clone, Default)]
pub struct Mounts(Vec<Mount>);

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The device, `major:minor`.
    device: Box<[u8]>,
    /// The directory of the file system that is mounted.
    pub(crate) root: PathBuf,
    /// Where.
    pub(crate) point: PathBuf,
    /// Of cgroups, which version's.
    pub(crate) hierarchy: Option<Hierarchy>,
}

/// A hierarchy of cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hierarchy {
    /// Of version 1, with its controllers.
    One(Vec<String>),
    /// Of version 2.
    Two,
}

impl Mounts {
    /// What is mounted now; nothing where the kernel does not tell.
    pub fn read() -> Self {
        // The kernel writes it anew at each read: a few large ones.
        let mut text = Vec::with_capacity(16 << 10);
        if File::open("/proc/self/mountinfo").and_then(|mut file| file.read_to_end(&mut text)).is_err() {
            return Self::default();
        }
        Self::of(&text)
    }

    pub(crate) fn of(text: &[u8]) -> Self {
        Self(text.split(|byte| *byte == b'\n').filter_map(mount).collect())
    }

    /// The hierarchies of cgroups, of either version.
    pub(crate) fn hierarchies(&self) -> impl Iterator<Item = (&Mount, &Hierarchy)> {
        self.0.iter().filter_map(|mount| Some((mount, mount.hierarchy.as_ref()?)))
    }

    /// Where they are: files there move processes out of what confines them, and of version 1 start programs outside
    /// ("release_agent").
    pub fn cgroups(&self) -> impl Iterator<Item = &Path> {
        self.hierarchies().map(|(mount, _)| mount.point.as_path())
    }

    /// Where else things are to be found that lie at `path` or below it, which leads through no link: the mount points of
    /// other mounts of theirs (mount(8), `--bind`).
    pub fn elsewhere(&self, path: &Path) -> Vec<&Path> {
        // Of mounts on one another the last is what is seen.
        let holders = self.0.iter().filter(|mount| path.starts_with(&mount.point));
        let Some(holder) = holders.max_by_key(|mount| mount.point.as_os_str().len()) else {
            return Vec::new();
        };
        let Ok(below) = path.strip_prefix(&holder.point) else { return Vec::new() };
        let inner = holder.root.join(below);
        let others = self.0.iter().filter(|mount| mount.device == holder.device && mount.point != path);
        others.filter(|mount| mount.root.starts_with(&inner)).map(|mount| mount.point.as_path()).collect()
    }
}

fn mount(line: &[u8]) -> Option<Mount> {
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let dash = words.iter().skip(6).position(|word| *word == b"-")? + 6;
    let hierarchy = match *words.get(dash + 1)? {
        b"cgroup2" => Some(Hierarchy::Two),
        b"cgroup" => {
            let options = String::from_utf8_lossy(words.get(dash + 3)?).into_owned();
            Some(Hierarchy::One(options.split(',').map(str::to_owned).collect()))
        }
        _ => None,
    };
    let (root, point) = (unescaped(words.get(3)?), unescaped(words.get(4)?));
    Some(Mount { device: (*words.get(2)?).into(), root, point, hierarchy })
}

/// A path in which the kernel wrote blanks and the like as octal numbers.
fn unescaped(text: &[u8]) -> PathBuf {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        let octal = (*byte == b'\\').then(|| after.get(..3)).flatten();
        let value = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        out.push(value.unwrap_or(*byte));
        rest = if value.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_as_the_kernel_writes_them() {
        let line =
            b"41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        let two = mount(line).unwrap();
        assert_eq!((two.root, two.point), ("/".into(), "/sys/fs/cgroup/unified".into()));
        assert_eq!(two.hierarchy, Some(Hierarchy::Two));
        let one = mount(b"35 31 0:32 /a\\040b /c\\134d rw - cgroup cgroup rw,cpu,memory").unwrap();
        assert_eq!((one.root, one.point), ("/a b".into(), "/c\\d".into()));
        assert!(matches!(one.hierarchy, Some(Hierarchy::One(names)) if names.contains(&"memory".into())));
        assert_eq!(mount(b"31 23 0:28 / /sys rw - tmpfs tmpfs rw").unwrap().hierarchy, None);
        for other in [&b""[..], b"1 2 3 - cgroup2", b"cgroup2"] {
            assert_eq!(mount(other), None);
        }
    }

    #[test]
    fn what_is_bound_elsewhere_is_found_there() {
        let mounts = Mounts::of(
            b"1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
              2 1 8:2 / /data rw - ext4 /dev/sda2 rw\n\
              3 1 8:2 /keys/old /work/old rw - ext4 /dev/sda2 rw\n\
              4 1 8:2 /keys /mnt rw - ext4 /dev/sda2 rw\n\
              5 1 8:2 /keyring /other rw - ext4 /dev/sda2 rw\n\
              6 1 8:1 /keys/old /root-fs rw - ext4 /dev/sda1 rw\n\
              7 1 8:2 /keys/one.pem /one.pem rw - ext4 /dev/sda2 rw",
        );
        let found = |path: &str| {
            mounts.elsewhere(Path::new(path)).iter().map(|at| at.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(found("/data/keys"), ["/work/old", "/mnt", "/one.pem"]);
        assert_eq!(found("/data/keys/old"), ["/work/old"]);
        assert_eq!(found("/mnt/old"), ["/work/old"]);
        assert_eq!(found("/data/keys/one.pem"), ["/one.pem"]);
        assert_eq!(found("/keys/old"), ["/root-fs"]);
        assert!(found("/data/nothing").is_empty() && found("/etc").is_empty());
    }
}
