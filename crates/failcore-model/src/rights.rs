//! What an operation on a file needs.

use bitflags::bitflags;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeSeq};

bitflags! {
    /// A set of rights on a file or directory. One open is judged on the whole set it needs.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Rights: u8 {
        /// Contents, directory listing, mapping.
        const READ = 1;
        /// Make a new name.
        const CREATE = 2;
        /// Write, append, truncate.
        const MODIFY = 4;
        /// Unlink, rmdir, rename away.
        const DELETE = 8;
        /// Mode, owner, times, extended attributes.
        const ATTR = 16;
        /// What a `write` grant means: create, modify, delete, attributes, and read.
        const WRITE = 31;
    }
}

const NAMES: [(Rights, &str); 5] = [
    (Rights::READ, "read"),
    (Rights::CREATE, "create"),
    (Rights::MODIFY, "modify"),
    (Rights::DELETE, "delete"),
    (Rights::ATTR, "attr"),
];

impl Rights {
    /// The names of the rights in the set, in a fixed order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.into_iter().filter(move |(right, _)| self.contains(*right)).map(|(_, name)| name)
    }

    /// The single right of that name.
    pub fn from_right_name(name: &str) -> Option<Self> {
        NAMES.into_iter().find(|(_, n)| *n == name).map(|(right, _)| right)
    }
}

impl Serialize for Rights {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut seq = s.serialize_seq(None)?;
        for name in self.names() {
            seq.serialize_element(name)?;
        }
        seq.end()
    }
}

impl<'de> Deserialize<'de> for Rights {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Rights;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of rights: read, create, modify, delete, attr")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Rights, A::Error> {
                let mut rights = Rights::empty();
                while let Some(name) = seq.next_element::<std::borrow::Cow<'de, str>>()? {
                    rights |= Rights::from_right_name(&name)
                        .ok_or_else(|| de::Error::custom(format_args!("`{name}` is no right")))?;
                }
                Ok(rights)
            }
        }
        d.deserialize_seq(Visitor)
    }
}

impl schemars::JsonSchema for Rights {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Rights".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "array", "uniqueItems": true,
            "items": {"enum": NAMES.map(|(_, name)| name)}
        })
    }
}
