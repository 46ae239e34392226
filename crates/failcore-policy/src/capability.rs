//! Linux capabilities (capabilities(7)): which of root's powers a program may keep, and why it may not keep the others.
//!
//! A program under the supervisor has none. What a policy keeps, the program and the threads that act for it have, so
//! that every operation is judged before as after. Not to be kept is what reaches things that no rule speaks of, what
//! changes what names and addresses mean, and what ends the supervision itself.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::ask::AskError;
use crate::error::Wrong;

/// A capability that a program may keep.
///
/// ```
/// use failcore_policy::Capability;
/// assert_eq!("net_raw".parse::<Capability>().unwrap().number(), 13);
/// assert!("sys_admin".parse::<Capability>().is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capability(u8);

/// Every capability by its number (linux/capability.h), and why a program does not keep it; nothing where it may.
const ALL: [(&str, Option<&str>); 41] = [
    ("chown", None),
    ("dac_override", None),
    ("dac_read_search", None),
    ("fowner", None),
    ("fsetid", None),
    ("kill", None),
    ("setgid", Some(ANOTHER_USER)),
    ("setuid", Some(ANOTHER_USER)),
    ("setpcap", None),
    ("linux_immutable", None),
    ("net_bind_service", None),
    ("net_broadcast", None),
    (
        "net_admin",
        Some("it moves addresses and routes, so that an address that was judged is somebody else's"),
    ),
    ("net_raw", None),
    ("ipc_lock", None),
    ("ipc_owner", Some("it opens the shared memory of other users' programs, of which no rule can speak")),
    ("sys_module", Some("it loads code into the kernel")),
    ("sys_rawio", Some("it reaches memory and devices past every file")),
    ("sys_chroot", Some(ALWAYS_REFUSED)),
    ("sys_ptrace", Some("it reaches into every process, the supervisor's too")),
    ("sys_pacct", Some(ALWAYS_REFUSED)),
    ("sys_admin", Some("it undoes most of what confines a program")),
    ("sys_boot", Some(ALWAYS_REFUSED)),
    ("sys_nice", None),
    ("sys_resource", Some("it lifts the limits that hold a run")),
    ("sys_time", Some("the clock says when grants end, and stands in every record")),
    ("sys_tty_config", Some("it changes what the keys of a console type")),
    ("mknod", Some("a device made under a granted name reaches disks and memory past every rule")),
    ("lease", None),
    ("audit_write", None),
    ("audit_control", Some("it switches the machine's own audit off")),
    ("setfcap", Some("it gives a file powers that outlast the run")),
    ("mac_override", Some("it passes the machine's own access control")),
    ("mac_admin", Some("it changes the machine's own access control")),
    ("syslog", Some(ALWAYS_REFUSED)),
    ("wake_alarm", None),
    ("block_suspend", None),
    ("audit_read", None),
    ("perfmon", Some("it looks into every process, past every rule about files")),
    ("bpf", Some("it loads code into the kernel")),
    ("checkpoint_restore", Some("it takes on another image than the one that was judged")),
];
const ANOTHER_USER: &str = "a process of another user than it was started as cannot be supervised";
const ALWAYS_REFUSED: &str = "the calls that it is for are always refused";

impl Capability {
    /// The capability of that name, as in capabilities(7); `CAP_` before it and capital letters do not matter.
    pub(crate) fn named(text: &str) -> Result<Self, Wrong> {
        let lower = text.to_ascii_lowercase();
        let name = lower.strip_prefix("cap_").unwrap_or(&lower);
        let Some(number) = ALL.iter().position(|(known, _)| *known == name) else {
            return Err(Wrong::new(format!("there is no capability `{text}`")).meant(name, &Self::kept()));
        };
        match ALL[number].1 {
            Some(why) => Err(Wrong::new(format!("`{name}` is never kept: {why}"))),
            None => Ok(Self(number as u8)),
        }
    }

    /// Its number (linux/capability.h).
    pub fn number(self) -> u32 {
        self.0.into()
    }

    /// Its name, as in capabilities(7).
    pub fn as_str(self) -> &'static str {
        ALL[usize::from(self.0)].0
    }

    /// The names of all that may be kept.
    fn kept() -> Vec<&'static str> {
        ALL.iter().filter(|(_, why)| why.is_none()).map(|(name, _)| *name).collect()
    }
}

impl FromStr for Capability {
    type Err = AskError;

    fn from_str(text: &str) -> Result<Self, AskError> {
        Self::named(text).map_err(|wrong| AskError { message: wrong.message, help: wrong.help })
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for Capability {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Capability {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::named(&String::deserialize(d)?).map_err(|wrong| de::Error::custom(wrong.message))
    }
}

impl JsonSchema for Capability {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Capability".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "enum": Self::kept(), "description": "A capability, as in capabilities(7)." })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_the_kernels() {
        for (name, number) in [("chown", 0), ("net_bind_service", 10), ("net_raw", 13), ("audit_read", 37)] {
            assert_eq!(Capability::named(name).unwrap().number(), number);
        }
        assert_eq!(Capability::named("CAP_NET_RAW").unwrap().as_str(), "net_raw");
        assert_eq!(ALL[21].0, "sys_admin");
        assert_eq!(ALL[40].0, "checkpoint_restore");
    }

    #[test]
    fn what_would_undo_the_lane_is_never_kept() {
        for name in [
            "sys_admin",
            "sys_ptrace",
            "sys_module",
            "bpf",
            "perfmon",
            "sys_rawio",
            "sys_boot",
            "setfcap",
            "checkpoint_restore",
            "mac_admin",
            "mac_override",
            "setuid",
            "setgid",
            "net_admin",
            "mknod",
        ] {
            let wrong = Capability::named(name).unwrap_err();
            assert!(wrong.message.contains("never kept"), "{}", wrong.message);
        }
        assert!(Capability::named("net_rwa").unwrap_err().help.unwrap().contains("net_raw"));
        assert!(serde_json::from_str::<Capability>("\"sys_admin\"").is_err(), "nor by a resolved policy");
    }
}
