//! What the file system says of a trace's files: the same as before, where nothing was written to them since.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use xxhash_rust::xxh3::Xxh3;

use crate::layout;

/// How long ago a file must have been changed last, so that another change would be seen in its times: file systems count them
/// in steps, the coarsest of two seconds (git calls a file that may have changed twice within one step racy).
const SETTLED: Duration = Duration::from_secs(3);

/// Identity, length and times of every file a verification reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp([u8; 16]);

impl Stamp {
    /// What stands where there is no stamp.
    pub(crate) const NONE: [u8; 16] = [0; 16];

    /// The stamp of the trace in `dir` as it is; none where a file cannot be looked at, or was changed a moment ago.
    pub fn of(dir: &Path) -> Option<Self> {
        Self::at(SystemTime::now(), dir)
    }

    fn at(now: SystemTime, dir: &Path) -> Option<Self> {
        let mut digest = Xxh3::new();
        let settled = now.duration_since(UNIX_EPOCH).ok()?.checked_sub(SETTLED)?.as_secs();
        let mut add = |file: &Metadata| {
            let times = [file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()];
            for number in
                [file.dev(), file.ino(), file.size()].into_iter().chain(times.map(i64::cast_unsigned))
            {
                digest.update(&number.to_le_bytes());
            }
            u64::try_from(file.ctime()).is_ok_and(|changed| changed < settled)
        };
        for name in [layout::KEY, layout::POLICY, layout::CHECKPOINTS, layout::LEAVES] {
            add(&fs::metadata(dir.join(name)).ok()?).then_some(())?;
        }
        let mut number = 0;
        while let Ok(segment) = fs::metadata(layout::segment(dir, number)) {
            add(&segment).then_some(())?;
            number += 1;
        }
        (number > 0).then(|| Self(digest.digest128().to_le_bytes())).filter(|stamp| stamp.0 != Self::NONE)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_to_a_moment_ago_has_no_stamp() {
        let home = tempfile::tempdir().unwrap();
        for name in [layout::KEY, layout::POLICY, layout::CHECKPOINTS, layout::LEAVES, "trace.jsonl"] {
            fs::write(home.path().join(name), name).unwrap();
        }
        let written = fs::metadata(home.path().join("trace.jsonl")).unwrap().modified().unwrap();
        let stamp = |seconds| Stamp::at(written + Duration::from_secs(seconds), home.path());
        assert!(stamp(0).is_none() && stamp(2).is_none());
        assert!(stamp(10).is_some() && stamp(10) == stamp(1000));
        fs::remove_file(home.path().join(layout::LEAVES)).unwrap();
        assert!(stamp(10).is_none());
    }
}
