//! What a stand-in has judged and the hook behind it will see in a moment, on the same thread.
//!
//! Each note is bound to the very object that was judged, which the stand-in keeps alive and which is immutable:
//! an event about any other object is judged by itself.

use std::cell::Cell;

use crate::hook_object::Object;

#[derive(Clone, Copy, Default)]
struct Notes {
    /// The path object of an `os.open`, and its directory.
    open: (usize, i64),
    /// The path object of an exec, the host of a look-up, the address of a connect: judged in full, or left to a supervisor.
    judged: usize,
    /// How the database name of a `sqlite3.connect` is read.
    uri: Option<bool>,
    /// Modules that are being imported in order to replace their functions, a bit each: one may import another, as `_ssl`
    /// does `_socket`.
    loading: u128,
}

thread_local!(static NOTES: Cell<Notes> = const {
    Cell::new(Notes { open: (0, 0), judged: 0, uri: None, loading: 0 })
});

/// Takes a note back when dropped.
pub(crate) struct Guard(Notes);

impl Drop for Guard {
    fn drop(&mut self) {
        NOTES.set(self.0);
    }
}

fn note(edit: impl FnOnce(&mut Notes)) -> Guard {
    let before = NOTES.get();
    let mut now = before;
    edit(&mut now);
    NOTES.set(now);
    Guard(before)
}

fn address(object: Option<Object<'_>>) -> usize {
    object.map_or(0, |object| object.as_ptr() as usize)
}

/// An `os.open` of this path object is relative to this directory (−1: the working directory).
pub(crate) fn note_open(path: Option<Object<'_>>, dir: i64) -> Guard {
    let path = address(path);
    note(|notes| notes.open = (path, dir))
}

/// The directory that a path object of an `open` event is relative to, if our own `os.open` was called with it.
pub(crate) fn directory_for(path: Option<Object<'_>>) -> Option<i64> {
    let (noted, dir) = NOTES.get().open;
    (noted != 0 && noted == address(path)).then_some(dir)
}

/// The operation on this object was judged.
pub(crate) fn note_judged(object: usize) -> Guard {
    note(|notes| notes.judged = object)
}

/// Whether the operation on this object was judged.
pub(crate) fn is_judged(object: Option<Object<'_>>) -> bool {
    let noted = NOTES.get().judged;
    noted != 0 && noted == address(object)
}

/// The next database name is read as a URI, or is not.
pub(crate) fn note_uri(uri: bool) -> Guard {
    note(|notes| notes.uri = Some(uri))
}

/// How a database name is read, if our own `sqlite3.connect` was called.
pub(crate) fn sqlite_uri() -> Option<bool> {
    NOTES.get().uri
}

/// All modules whose functions are replaced are being imported.
pub(crate) fn note_loading_all() -> Guard {
    note(|notes| notes.loading = u128::MAX)
}

/// The module with this number is imported in order to replace its functions; nothing where it is already.
pub(crate) fn note_loading(number: usize) -> Option<Guard> {
    let bit = 1 << number;
    (NOTES.get().loading & bit == 0).then(|| note(|notes| notes.loading |= bit))
}
