//! Walking a path as the kernel does (path_resolution(7)): one name after the other, each looked at by whoever walks.

use rustix::fs::{CWD, FileType, Stat, readlinkat};

/// As many links as the kernel follows.
const MAX_LINKS: u32 = 40;

/// Where a walk ended.
pub(crate) enum End {
    /// At what stands there.
    At(Vec<u8>, Stat),
    /// Before that, or where nobody records.
    Nowhere,
}

/// Walks along `path`, which is absolute; `look` says what stands at each place on the way, which is without links.
///
/// # Errors
/// The first of `look`.
pub(crate) fn walk<E>(
    path: &[u8],
    follow: bool,
    mut look: impl FnMut(&[u8]) -> Result<Option<Stat>, E>,
) -> Result<End, E> {
    let mut left: Vec<Vec<u8>> = components(path).rev().map(<[u8]>::to_vec).collect();
    let must_be_directory = path.ends_with(b"/");
    let mut here: Vec<u8> = Vec::new();
    let mut links = 0;
    let Some(root) = look(b"/")? else { return Ok(End::Nowhere) };
    let mut end = End::At(b"/".to_vec(), root);
    while let Some(name) = left.pop() {
        if name == b".." {
            let parent = here.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            here.truncate(parent);
            continue;
        }
        let next = [&here[..], b"/", &name].concat();
        if is_live(&next) {
            return Ok(End::Nowhere);
        }
        let Some(stat) = look(&next)? else { return Ok(End::Nowhere) };
        let last = left.is_empty();
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink if !last || follow || must_be_directory => {
                links += 1;
                let Ok(target) = readlinkat(CWD, next.as_slice(), Vec::new()) else {
                    return Ok(End::Nowhere);
                };
                if links > MAX_LINKS {
                    return Ok(End::Nowhere);
                }
                let target = target.into_bytes();
                if target.starts_with(b"/") {
                    here.clear();
                }
                left.extend(components(&target).rev().map(<[u8]>::to_vec));
            }
            FileType::Directory => {
                here.clone_from(&next);
                end = End::At(next, stat);
            }
            _ if last => return Ok(End::At(next, stat)),
            _ => return Ok(End::Nowhere),
        }
    }
    Ok(end)
}

pub(crate) fn absolute(from: &[u8], asked: &[u8]) -> Vec<u8> {
    if asked.starts_with(b"/") { asked.to_vec() } else { [from, b"/", asked].concat() }
}

pub(crate) fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}

pub(crate) fn parent(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(0) | None => b"/",
        Some(at) => &path[..at],
    }
}

/// What follows `dir` in a path that is below it, with its slash; nothing of `dir` itself.
pub(crate) fn below<'a>(path: &'a [u8], dir: &[u8]) -> Option<&'a [u8]> {
    path.strip_prefix(dir).filter(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// Whether a path is of the processes that run now, which are others the next time.
pub(crate) fn is_live(path: &[u8]) -> bool {
    let Some(rest) = path.strip_prefix(b"/proc/") else { return false };
    let name = rest.split(|byte| *byte == b'/').next().unwrap_or_default();
    matches!(name, b"self" | b"thread-self") || (!name.is_empty() && name.iter().all(u8::is_ascii_digit))
}
