//! The policy file as written: the types it is parsed into, from which its JSON Schema is made too.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use failcore_model::{Rights, Timestamp};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::capability::Capability;
use crate::set::{Mode, Reads, Stdin};

/// The JSON Schema of a policy file, for editors.
pub fn schema() -> Schema {
    schemars::schema_for!(Document)
}

/// A FailCore policy.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Policy")]
pub(crate) struct Document {
    /// Version of the language: 1.
    pub(crate) version: Option<At<u32>>,
    /// What the policy is called.
    pub(crate) name: Option<String>,
    /// What becomes of a refusal; counts in the named file only, never through `extends`.
    pub(crate) mode: Mode,
    /// Presets (`preset:python`) and files, by path relative to this one.
    pub(crate) extends: Vec<At<String>>,
    /// Files.
    pub(crate) fs: Fs,
    /// Addresses and names.
    pub(crate) net: Net,
    /// Programs and signals.
    pub(crate) process: Process,
    /// Environment variables.
    pub(crate) env: Env,
    /// Native code in the interpreter.
    pub(crate) native: Native,
    /// Operations that no decoder knows.
    pub(crate) unmapped: Unmapped,
    /// Budgets.
    pub(crate) limits: Budgets,
    /// How the record is kept.
    pub(crate) trace: Trace,
    /// Scopes that narrow what single tools may do.
    pub(crate) tool: Vec<At<Tool>>,
    /// Requests and what must come of them, checked whenever the policy loads.
    pub(crate) test: Vec<At<Row>>,
    /// Which payloads a recorded run keeps (`failcore run --record`).
    pub(crate) record: Recorded,
    /// Headers that are added to requests on carried connections, so that the program never holds the secrets in them.
    pub(crate) credential: Vec<At<CredentialEntry>>,
    /// How names are looked up.
    pub(crate) dns: Dns,
    /// Linux capabilities.
    pub(crate) capabilities: Capabilities,
    /// The standard streams.
    pub(crate) io: Io,
}

/// Files. A directory covers everything below it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Fs {
    /// What may be read and listed.
    pub(crate) read: Option<Vec<At<FileEntry>>>,
    /// What may be created, modified, deleted, have its attributes changed, and be read.
    pub(crate) write: Option<Vec<At<FileEntry>>>,
    /// What is refused whatever else is granted.
    pub(crate) deny: Option<Vec<At<FileEntry>>>,
    #[schemars(skip)]
    pub(crate) caution: Option<Vec<At<FileEntry>>>,
}

/// Addresses and names.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Net {
    /// Where connections may go: `host:port`, `*.host:port`, `10.0.0.0/8:22-23`, `[::1]:80`, `udp:…`, `unix:/path`.
    pub(crate) connect: Option<Vec<At<ConnectEntry>>>,
    /// Where connections may be accepted; port 0 is a port that the system picks.
    pub(crate) listen: Option<Vec<At<HostEntry>>>,
    /// What is refused whatever else is granted; without a port, all of them.
    pub(crate) deny: Option<Vec<At<HostEntry>>>,
    /// Socket kinds beside TCP, UDP and unix: `family [type [protocol]]`, as `netlink raw 0`.
    pub(crate) socket: Option<Vec<At<NameEntry>>>,
    /// Requests that may be made: methods, host and path, as `GET,HEAD api.example.com/repos/**`. Such a host is reached on
    /// carried connections only, and by no other requests.
    pub(crate) http: Option<Vec<At<RequestEntry>>>,
    /// How long the body of one request on a carried connection may be: `1MiB`.
    pub(crate) request_bytes: Option<At<Amount>>,
    /// How long the body of one response on a carried connection may be: `100MiB`.
    pub(crate) response_bytes: Option<At<Amount>>,
    #[schemars(skip)]
    pub(crate) caution: Option<Vec<At<HostEntry>>>,
}

/// A header for requests to one host, with a secret in it that is never part of the policy.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CredentialEntry {
    /// The host, with its port where that is not 443.
    pub(crate) host: String,
    /// The header, as `Authorization`.
    pub(crate) header: String,
    /// What stands before the secret, as `Bearer ` with its space.
    #[serde(default)]
    pub(crate) prefix: String,
    /// The environment variable of whoever starts the run that holds the secret; the program does not get it.
    #[serde(default)]
    pub(crate) env: Option<String>,
    /// The file that holds the secret; the program cannot read it.
    #[serde(default)]
    pub(crate) file: Option<String>,
    /// A name for the rule that survives edits.
    #[serde(default)]
    pub(crate) id: Option<String>,
}

/// Programs and signals.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Process {
    /// Which programs may start: `git` with any arguments, `git status` with exactly these, `git log *` with any rest.
    pub(crate) exec: Option<Vec<At<CommandEntry>>>,
    /// Who may be signalled; stands instead of what the file extends.
    pub(crate) signal: Option<At<Signal>>,
    /// Whether limits of other processes may be changed; stands instead of what the file extends.
    pub(crate) limit: Option<At<bool>>,
}

/// Environment variables.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Env {
    /// Names, or patterns of names, that reach the program.
    pub(crate) pass: Option<Vec<At<NameEntry>>>,
}

/// Native code in the interpreter.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Native {
    /// Shared objects that may be loaded: `site-packages`, paths, and `ctypes` for the foreign function interface.
    pub(crate) load: Option<Vec<At<FileEntry>>>,
}

/// Operations that no decoder knows.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Unmapped {
    /// Their names, or patterns of names, as refusals show them.
    pub(crate) permit: Option<Vec<At<NameEntry>>>,
}

/// Budgets.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Budgets {
    /// How long the run may last: `30m`, `1h30m`.
    pub(crate) wall_time: Option<At<String>>,
    /// Memory: `2GiB`. Sampled.
    pub(crate) memory: Option<At<Amount>>,
    /// Processes alive at once.
    pub(crate) processes: Option<At<u64>>,
    /// Connections made.
    pub(crate) connections: Option<At<u64>>,
    /// Bytes written: `1GiB`. Sampled, so that it can overshoot.
    pub(crate) write_bytes: Option<At<Amount>>,
    /// Operations allowed.
    pub(crate) operations: Option<At<u64>>,
}

/// Linux capabilities. A program has none of root's, but for those named here.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Capabilities {
    /// Those that the program keeps, as named in capabilities(7): `net_bind_service`.
    pub(crate) keep: Option<Vec<At<CapabilityName>>>,
}

/// How names are looked up: without this, as the machine does. Kernel lane only.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Dns {
    /// Name servers that are asked instead of the machine's own resolver: `tls://9.9.9.9#dns.quad9.net`,
    /// `https://9.9.9.9/dns-query#dns.quad9.net`, `dns://10.0.0.53`. Stands instead of what the file extends.
    pub(crate) upstream: Option<Vec<At<String>>>,
}

/// The standard streams.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Io {
    /// What the program reads as its standard input. A file's `null` stands whatever extends it.
    pub(crate) stdin: Stdin,
}

/// How the record is kept.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Trace {
    /// Who holds read-only opens.
    pub(crate) reads: Reads,
    /// Environment variables whose values are kept out of the record, by name or pattern; those whose names say that they
    /// hold a secret are kept out anyway.
    pub(crate) redact: Vec<At<String>>,
}

/// Which payloads a recorded run keeps; of the rest it has the hash alone, so that they must be there, unchanged, when the
/// program runs again.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Recorded {
    /// Files whose contents are kept, and no others: paths or patterns. Absent, all but programs and libraries.
    pub(crate) keep: Option<Vec<At<String>>>,
    /// Files whose contents are not kept, whatever else says so: paths or patterns.
    pub(crate) hash_only: Vec<At<String>>,
    /// The longest file that is kept: `64MiB`.
    pub(crate) max_file: Option<At<Amount>>,
    /// What all that is kept may come to, before it is packed: `4GiB`. A run whose recording would need more is stopped.
    pub(crate) max_total: Option<At<Amount>>,
}

/// A scope that narrows what some tools may do. An absent list is the session's; an empty one grants nothing.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tool {
    /// The tool's name, or a pattern of names.
    pub(crate) name: At<String>,
    #[serde(default)]
    pub(crate) fs: Fs,
    #[serde(default)]
    pub(crate) net: Net,
    #[serde(default)]
    pub(crate) process: Process,
    /// Environment variables are the whole program's. Not held.
    #[serde(default)]
    pub(crate) env: Option<At<Later>>,
    #[serde(default)]
    pub(crate) native: Native,
}

/// A request and what must come of it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    /// A verb and a resource: `fs.read ./work/.env`.
    pub(crate) request: At<String>,
    /// What must come of it.
    pub(crate) expect: Expect,
    /// The tool that makes the request.
    #[serde(default)]
    pub(crate) tool: Option<String>,
}

/// What must come of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Expect {
    /// It is allowed.
    Allow,
    /// It is refused.
    Deny,
}

/// Who may be signalled; each includes those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Signal {
    /// Nobody.
    None,
    /// The sender itself.
    #[serde(rename = "self")]
    Own,
    /// What it started.
    Children,
    /// Every process of the run.
    Run,
}

/// A number of bytes, as a number or with a unit: `2GiB`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Amount {
    Bytes(u64),
    Text(String),
}

/// The name of a capability, to be looked up.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct CapabilityName(pub(crate) String);

impl JsonSchema for CapabilityName {
    fn inline_schema() -> bool {
        Capability::inline_schema()
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        Capability::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Capability::json_schema(generator)
    }
}

/// An entry of any list, in one form.
#[derive(Debug, Clone, Default)]
pub(crate) struct Entry {
    pub(crate) object: String,
    pub(crate) plain: bool,
    pub(crate) id: Option<String>,
    pub(crate) approve: bool,
    pub(crate) until: Option<Timestamp>,
    pub(crate) audit: bool,
    pub(crate) reason: Option<String>,
    pub(crate) only: Option<Rights>,
    pub(crate) carry: bool,
}

macro_rules! entries {
    ($($(#[$doc:meta])* $name:ident { $key:ident $(, only $only:ident)? $(, carry $carry:ident)? } $shape:literal;)*) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub(crate) struct $name(pub(crate) Entry);

        const _: () = {
            #[derive(Deserialize, JsonSchema)]
            #[serde(deny_unknown_fields)]
            struct Table {
                #[schemars(description = $shape)]
                $key: String,
                /// A name for the rule that survives edits.
                #[serde(default)]
                id: Option<String>,
                /// A person must approve each operation.
                #[serde(default)]
                approve: bool,
                /// When the grant ends.
                #[serde(default)]
                until: Option<Timestamp>,
                /// Permits, flags the record and notifies.
                #[serde(default)]
                audit: bool,
                /// Shown with a refusal, so that the agent can act on it.
                #[serde(default)]
                reason: Option<String>,
                $(
                    /// The rights meant, instead of all that the list stands for.
                    #[serde(default)]
                    $only: Option<Rights>,
                )?
                $(
                    /// Whether connections are carried: the name that the program asks for there is checked.
                    #[serde(default)]
                    $carry: bool,
                )?
            }

            impl Listed for $name {
                fn plain(object: String) -> Self {
                    Self(Entry { object, plain: true, ..Entry::default() })
                }

                fn table<'de, D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                    let table = Table::deserialize(d)?;
                    let entry = Entry {
                        object: table.$key,
                        plain: false,
                        id: table.id,
                        approve: table.approve,
                        until: table.until,
                        audit: table.audit,
                        reason: table.reason,
                        only: None,
                        carry: false,
                    };
                    $( let entry = Entry { only: table.$only, ..entry }; )?
                    $( let entry = Entry { carry: table.$carry, ..entry }; )?
                    Ok(Self(entry))
                }
            }

            impl<'de> Deserialize<'de> for $name {
                fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                    d.deserialize_any(Either(PhantomData))
                }
            }

            impl JsonSchema for $name {
                fn schema_name() -> std::borrow::Cow<'static, str> {
                    stringify!($name).into()
                }

                fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                    let table = Table::json_schema(generator);
                    json_schema!({ "anyOf": [{ "type": "string", "description": $shape }, table] })
                }
            }
        };
    )* };
}

entries! {
    /// A path, or a table about one.
    FileEntry { path, only only } "A path or pattern; `*`, `?`, `[..]`, `{a,b}` and `**` as in a shell.";
    /// A host to connect to, or a table about one.
    ConnectEntry { host, carry carry } "A host, address or range with its port, or `unix:` and a path.";
    /// A request, or a table about one.
    RequestEntry { request } "Methods, a host, and a path or pattern of paths, as `GET api.example.com/repos/**`.";
    /// A host, or a table about one.
    HostEntry { host } "A host, address or range with its port, or `unix:` and a path.";
    /// A command, or a table about one.
    CommandEntry { cmd } "A program and its arguments; a final ` *` takes any rest.";
    /// A name, or a table about one.
    NameEntry { name } "A name or a pattern of names.";
}

/// What can stand as a string or as a table.
trait Listed: Sized {
    fn plain(object: String) -> Self;
    fn table<'de, D: Deserializer<'de>>(d: D) -> Result<Self, D::Error>;
}

struct Either<T>(PhantomData<T>);

impl<'de, T: Listed> Visitor<'de> for Either<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a table")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        Ok(T::plain(text.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::table(MapAccessDeserializer::new(map))
    }
}

/// A value with its place in the text.
#[derive(Debug, Deserialize)]
#[serde(transparent, bound = "T: Deserialize<'de>")]
pub(crate) struct At<T>(toml::Spanned<T>);

impl<T> At<T> {
    pub(crate) fn get(&self) -> &T {
        self.0.get_ref()
    }

    pub(crate) fn span(&self) -> Range<usize> {
        self.0.span()
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// Whatever a later lane will make of it.
#[derive(Debug)]
pub(crate) struct Later;

impl<'de> Deserialize<'de> for Later {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(d).map(|_| Self)
    }
}

impl JsonSchema for Later {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Later".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!(true)
    }
}
