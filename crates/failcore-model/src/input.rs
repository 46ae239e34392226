//! What a program learnt from outside: what a recording keeps, so that it can be run again with nothing outside.

use serde::{Deserialize, Serialize};

use crate::Text;

/// The path by which the standard input goes, in what is learnt from it.
pub const STDIN: &str = "/dev/stdin";

/// What stood at a path when the program looked there for the first time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// Nothing.
    Absent,
    /// A symbolic link.
    Link {
        /// What it says.
        target: Text,
        /// When it was made.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        modified: Option<Moment>,
        /// What else is told of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        shown: Option<Shown>,
    },
    /// A directory.
    Directory {
        /// Its permission bits.
        mode: u32,
        /// When it was changed last.
        modified: Moment,
        /// What else is told of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        shown: Option<Shown>,
    },
    /// The names in a directory, in the order that the kernel tells them in.
    Names {
        /// Each with what bears it.
        names: Vec<Name>,
    },
    /// A regular file.
    File {
        /// Its permission bits.
        mode: u32,
        /// When it was changed last.
        modified: Moment,
        /// Its length, in bytes; 0 of files that the kernel writes as they are read.
        size: u64,
        /// What else is told of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        shown: Option<Shown>,
    },
    /// What a regular file holds, read as it was opened or run.
    Contents {
        /// SHA-256 of it, in hexadecimal.
        sha256: String,
        /// Its length, in bytes.
        size: u64,
        /// Whether it lies in the trace's directory. What does not must be on the machine, unchanged, when the program is
        /// run again.
        kept: bool,
    },
    /// What the standard input gave.
    Stdin {
        /// SHA-256 of it, in hexadecimal: of a file all that it holds, of anything else what was taken from it.
        sha256: String,
        /// Its length, in bytes.
        size: u64,
        /// Whether it lies in the trace's directory. What does not must be given again.
        kept: bool,
        /// Where in a file the program began to read; nothing, where it was none.
        at: Option<u64>,
    },
    /// A device, a FIFO or a socket, which tells what nobody keeps.
    Special {
        /// Its kind and permission bits (`st_mode`, inode(7)).
        mode: u32,
        /// Which device, of a device.
        device: u64,
    },
}

/// What a file system tells of a file or directory by its own ways (inode(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Shown {
    /// Its number.
    pub inode: u64,
    /// How many names it has.
    pub links: u64,
    /// Its length, in bytes; of a directory what its names take.
    pub size: u64,
    /// How much of the disk it takes, in units of 512 bytes.
    pub blocks: u64,
    /// When its metadata were changed last.
    pub changed: Moment,
}

/// A value that the kernel gave a thread, and gives none other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// What a clock said (clock_gettime(2)).
    Clock {
        /// Which (`CLOCK_*`).
        clock: i32,
        /// What it said.
        at: Moment,
    },
    /// Random bytes (getrandom(2)).
    Random {
        /// The bytes.
        bytes: Text,
    },
}

/// A point in time, as the kernel keeps it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
pub struct Moment {
    /// Seconds, since 1970 or since whenever the clock began.
    pub s: i64,
    /// Nanoseconds after that.
    pub ns: u32,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Name {
    /// The name.
    pub name: Text,
    /// What bears it.
    pub kind: Kind,
}

/// What can bear a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// Anything else.
    Other,
}

/// How a recorded program was started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Start {
    /// The program's file, and what it was given.
    pub program: Text,
    /// Its arguments, without its own name.
    pub args: Vec<Text>,
    /// Its environment, each as `NAME=VALUE`, as far as the policy let it through and without what FailCore adds.
    pub env: Vec<Text>,
    /// Its working directory.
    pub cwd: Text,
    /// Its private directory for temporary files.
    pub tmp: Text,
    /// Where the certificates lie that it is told to believe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<Text>,
    /// Who it ran as.
    pub uid: u32,
    /// With which group.
    pub gid: u32,
    /// Which permission bits new files do not get (umask(2)).
    pub umask: u32,
}
