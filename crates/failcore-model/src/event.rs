//! Facts, and their place in the trace.

use std::sync::Arc;

use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::heard::{Asked, Payload, Said};
use crate::input::{Input, Start, Told};
use crate::{Coverage, Decision, Request, Text, Timestamp};

/// Version of the trace's schema, the `v` of every record.
pub const TRACE_VERSION: u32 = 1;

/// A fact worth keeping.
///
/// `op` numbers an operation within its process, so that approval and outcome find their decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A session began. The first record of a trace.
    SessionOpened {
        /// SHA-256 of the resolved policy text, in hexadecimal.
        policy: String,
        /// What is really enforced.
        coverage: Box<Coverage>,
        /// The command, for a `failcore run`.
        command: Vec<Text>,
    },
    /// Something was decided; written before its effect.
    Decided {
        /// The operation.
        op: u64,
        /// The complete input, shared by whoever performs the operation and whoever writes the record.
        request: Arc<Request>,
        /// The answer.
        decision: Decision,
        /// Whether the verdict was enforced (false in audit mode).
        enforced: bool,
        /// How long deciding took, in nanoseconds.
        ns: u64,
    },
    /// A person answered, or did not.
    Approval {
        /// The operation.
        op: u64,
        /// The process that waits.
        pid: u32,
        /// The answer.
        answer: Answer,
        /// Who gave it; empty for a time-out.
        who: Text,
    },
    /// An allowed operation ended.
    Concluded {
        /// The operation.
        op: u64,
        /// The process it happened in.
        pid: u32,
        /// What really happened.
        outcome: Outcome,
    },
    /// A tool scope was entered.
    ScopeEntered {
        /// The process.
        pid: u32,
        /// The thread.
        tid: u32,
        /// The whole scope path after entering, the outermost first.
        scope: Vec<Text>,
        /// The step of the agent's plan.
        step: Option<Text>,
    },
    /// A tool scope was left.
    ScopeLeft {
        /// The process.
        pid: u32,
        /// The thread.
        tid: u32,
        /// The scope path that was left.
        scope: Vec<Text>,
    },
    /// A process joined the session.
    ProcessJoined {
        /// The process.
        pid: u32,
        /// Its parent.
        parent: u32,
        /// Its image.
        exe: Text,
    },
    /// A process of the session ended, or its connection was lost.
    ProcessLeft {
        /// The process.
        pid: u32,
    },
    /// A new segment of the trace began. The first record of every segment but the first.
    SegmentOpened {
        /// The segment's number, from 1.
        segment: u32,
        /// Root of the Merkle log over every record before this one, in base64.
        root: String,
    },
    /// Something the owner should know, such as records that a process wrote but that made no sense.
    Notice {
        /// In words.
        text: String,
    },
    /// The run was paused by its owner: nothing of it runs from here on.
    RunPaused {
        /// Who asked for it.
        who: Text,
    },
    /// The run goes on.
    RunResumed {
        /// Who asked for it.
        who: Text,
    },
    /// The run is being stopped by its owner: every process of it ends.
    RunStopped {
        /// Who asked for it.
        who: Text,
    },
    /// What the program learns from outside is kept from here on.
    RecordingStarted {
        /// How the program was started.
        start: Box<Start>,
    },
    /// The program learnt something from outside; written before it did.
    Input {
        /// The path, without links.
        path: Text,
        /// What stood there.
        input: Input,
    },
    /// The kernel gave a thread a value that it gives no other.
    Told {
        /// The thread: its process by descent and in the order of birth, as `0.1` for the second child of the program, and
        /// its own number there; then, as far as it is known, a digest of the code that asked.
        thread: Text,
        /// The value.
        told: Told,
    },
    /// Somebody outside answered.
    Heard {
        /// What they were asked.
        asked: Asked,
        /// What they said.
        said: Said,
        /// A body, or all that was heard.
        payload: Option<Payload>,
    },
    /// A file is another at the end of a recorded program than it was when the program first looked.
    Left {
        /// The path, without links.
        path: Text,
        /// SHA-256 of what it holds, in hexadecimal; nothing where it is gone.
        sha256: Option<String>,
    },
    /// Something was not kept that the program learnt: it cannot be run again.
    RecordingBroken {
        /// Why, in words.
        text: String,
    },
    /// The session ended in order. The last record of a trace.
    SessionClosed {
        /// The exit code of a `failcore run`, 128 + n for signal n.
        exit: Option<i32>,
    },
}

/// A person's answer to an approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Go ahead.
    Approved,
    /// No; also what a time-out means.
    Denied,
}

/// What really happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It succeeded, with the call's return value where it has one.
    Done(Option<i64>),
    /// It failed with this errno(3).
    Failed(i32),
}

/// An event in a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Place in the trace, from 0.
    pub seq: u64,
    /// When it was appended, by the writer's clock.
    pub ts: Timestamp,
    /// The session's id.
    pub session: Arc<str>,
    /// The event.
    pub event: Event,
}

impl Event {
    /// The `type` of its record.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::SessionOpened { .. } => "session.opened",
            Self::Decided { .. } => "decided",
            Self::Approval { .. } => "approval",
            Self::Concluded { .. } => "concluded",
            Self::ScopeEntered { .. } => "scope.entered",
            Self::ScopeLeft { .. } => "scope.left",
            Self::ProcessJoined { .. } => "process.joined",
            Self::ProcessLeft { .. } => "process.left",
            Self::SegmentOpened { .. } => "segment.opened",
            Self::Notice { .. } => "notice",
            Self::RunPaused { .. } => "run.paused",
            Self::RunResumed { .. } => "run.resumed",
            Self::RunStopped { .. } => "run.stopped",
            Self::RecordingStarted { .. } => "recording.started",
            Self::Input { .. } => "input",
            Self::Told { .. } => "told",
            Self::Heard { .. } => "heard",
            Self::Left { .. } => "left",
            Self::RecordingBroken { .. } => "recording.broken",
            Self::SessionClosed { .. } => "session.closed",
        }
    }

    fn fields<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        map.serialize_entry("type", self.kind())?;
        match self {
            Self::SessionOpened { policy, coverage, command } => {
                map.serialize_entry("policy", policy)?;
                map.serialize_entry("coverage", coverage)?;
                map.serialize_entry("command", command)
            }
            Self::Decided { op, request, decision, enforced, ns } => {
                map.serialize_entry("op", op)?;
                map.serialize_entry("request", request)?;
                map.serialize_entry("decision", decision)?;
                map.serialize_entry("enforced", enforced)?;
                map.serialize_entry("ns", ns)
            }
            Self::Approval { op, pid, answer, who } => {
                map.serialize_entry("op", op)?;
                map.serialize_entry("pid", pid)?;
                map.serialize_entry("answer", answer)?;
                map.serialize_entry("who", who)
            }
            Self::Concluded { op, pid, outcome } => {
                map.serialize_entry("op", op)?;
                map.serialize_entry("pid", pid)?;
                map.serialize_entry("outcome", outcome)
            }
            Self::ScopeEntered { pid, tid, scope, step } => {
                map.serialize_entry("pid", pid)?;
                map.serialize_entry("tid", tid)?;
                map.serialize_entry("scope", scope)?;
                match step {
                    Some(step) => map.serialize_entry("step", step),
                    None => Ok(()),
                }
            }
            Self::ScopeLeft { pid, tid, scope } => {
                map.serialize_entry("pid", pid)?;
                map.serialize_entry("tid", tid)?;
                map.serialize_entry("scope", scope)
            }
            Self::ProcessJoined { pid, parent, exe } => {
                map.serialize_entry("pid", pid)?;
                map.serialize_entry("parent", parent)?;
                map.serialize_entry("exe", exe)
            }
            Self::ProcessLeft { pid } => map.serialize_entry("pid", pid),
            Self::SegmentOpened { segment, root } => {
                map.serialize_entry("segment", segment)?;
                map.serialize_entry("root", root)
            }
            Self::Notice { text } | Self::RecordingBroken { text } => map.serialize_entry("text", text),
            Self::RunPaused { who } | Self::RunResumed { who } | Self::RunStopped { who } => {
                map.serialize_entry("who", who)
            }
            Self::RecordingStarted { start } => map.serialize_entry("start", start),
            Self::Input { path, input } => {
                map.serialize_entry("path", path)?;
                map.serialize_entry("input", input)
            }
            Self::Told { thread, told } => {
                map.serialize_entry("thread", thread)?;
                map.serialize_entry("told", told)
            }
            Self::Heard { asked, said, payload } => {
                map.serialize_entry("asked", asked)?;
                map.serialize_entry("said", said)?;
                match payload {
                    Some(payload) => map.serialize_entry("payload", payload),
                    None => Ok(()),
                }
            }
            Self::Left { path, sha256 } => {
                map.serialize_entry("path", path)?;
                map.serialize_entry("sha256", sha256)
            }
            Self::SessionClosed { exit } => map.serialize_entry("exit", exit),
        }
    }
}

/// An event alone, without its place in a trace: what an agent's process hands to the writer.
impl Serialize for Event {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(None)?;
        self.fields(&mut map)?;
        map.end()
    }
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(None)?;
        map.serialize_entry("v", &TRACE_VERSION)?;
        map.serialize_entry("seq", &self.seq)?;
        map.serialize_entry("ts", &self.ts)?;
        map.serialize_entry("session", &self.session)?;
        self.event.fields(&mut map)?;
        map.end()
    }
}

/// The flat JSON form of events and records; which fields stand depends on `type`. One struct of options rather
/// than a tagged enum, because serde buffers tagged enums and traces are read by the million.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Record", description = "One line of a trace. Which fields stand depends on `type`.")]
struct Flat {
    v: Option<u32>,
    seq: Option<u64>,
    ts: Option<Timestamp>,
    session: Option<Arc<str>>,
    /// What kind of event it is; the other fields depend on it.
    r#type: Kind,
    policy: Option<String>,
    coverage: Option<Box<Coverage>>,
    command: Option<Vec<Text>>,
    op: Option<u64>,
    request: Option<Request>,
    decision: Option<Decision>,
    enforced: Option<bool>,
    ns: Option<u64>,
    pid: Option<u32>,
    tid: Option<u32>,
    parent: Option<u32>,
    exe: Option<Text>,
    answer: Option<Answer>,
    who: Option<Text>,
    outcome: Option<Outcome>,
    scope: Option<Vec<Text>>,
    step: Option<Text>,
    segment: Option<u32>,
    root: Option<String>,
    text: Option<String>,
    start: Option<Box<Start>>,
    path: Option<Text>,
    input: Option<Input>,
    thread: Option<Text>,
    told: Option<Told>,
    asked: Option<Asked>,
    said: Option<Said>,
    payload: Option<Payload>,
    sha256: Option<String>,
    exit: Option<i32>,
}

#[derive(Deserialize, schemars::JsonSchema, Clone, Copy)]
enum Kind {
    #[serde(rename = "session.opened")]
    SessionOpened,
    #[serde(rename = "decided")]
    Decided,
    #[serde(rename = "approval")]
    Approval,
    #[serde(rename = "concluded")]
    Concluded,
    #[serde(rename = "scope.entered")]
    ScopeEntered,
    #[serde(rename = "scope.left")]
    ScopeLeft,
    #[serde(rename = "process.joined")]
    ProcessJoined,
    #[serde(rename = "process.left")]
    ProcessLeft,
    #[serde(rename = "segment.opened")]
    SegmentOpened,
    #[serde(rename = "notice")]
    Notice,
    #[serde(rename = "run.paused")]
    RunPaused,
    #[serde(rename = "run.resumed")]
    RunResumed,
    #[serde(rename = "run.stopped")]
    RunStopped,
    #[serde(rename = "recording.started")]
    RecordingStarted,
    #[serde(rename = "input")]
    Input,
    #[serde(rename = "told")]
    Told,
    #[serde(rename = "heard")]
    Heard,
    #[serde(rename = "left")]
    Left,
    #[serde(rename = "recording.broken")]
    RecordingBroken,
    #[serde(rename = "session.closed")]
    SessionClosed,
}

impl Flat {
    fn into_event(self) -> Result<Event, &'static str> {
        Ok(match self.r#type {
            Kind::SessionOpened => Event::SessionOpened {
                policy: self.policy.ok_or("policy")?,
                coverage: self.coverage.ok_or("coverage")?,
                command: self.command.ok_or("command")?,
            },
            Kind::Decided => Event::Decided {
                op: self.op.ok_or("op")?,
                request: Arc::new(self.request.ok_or("request")?),
                decision: self.decision.ok_or("decision")?,
                enforced: self.enforced.ok_or("enforced")?,
                ns: self.ns.ok_or("ns")?,
            },
            Kind::Approval => Event::Approval {
                op: self.op.ok_or("op")?,
                pid: self.pid.ok_or("pid")?,
                answer: self.answer.ok_or("answer")?,
                who: self.who.ok_or("who")?,
            },
            Kind::Concluded => Event::Concluded {
                op: self.op.ok_or("op")?,
                pid: self.pid.ok_or("pid")?,
                outcome: self.outcome.ok_or("outcome")?,
            },
            Kind::ScopeEntered => Event::ScopeEntered {
                pid: self.pid.ok_or("pid")?,
                tid: self.tid.ok_or("tid")?,
                scope: self.scope.ok_or("scope")?,
                step: self.step,
            },
            Kind::ScopeLeft => Event::ScopeLeft {
                pid: self.pid.ok_or("pid")?,
                tid: self.tid.ok_or("tid")?,
                scope: self.scope.ok_or("scope")?,
            },
            Kind::ProcessJoined => Event::ProcessJoined {
                pid: self.pid.ok_or("pid")?,
                parent: self.parent.ok_or("parent")?,
                exe: self.exe.ok_or("exe")?,
            },
            Kind::ProcessLeft => Event::ProcessLeft { pid: self.pid.ok_or("pid")? },
            Kind::SegmentOpened => Event::SegmentOpened {
                segment: self.segment.ok_or("segment")?,
                root: self.root.ok_or("root")?,
            },
            Kind::Notice => Event::Notice { text: self.text.ok_or("text")? },
            Kind::RunPaused => Event::RunPaused { who: self.who.ok_or("who")? },
            Kind::RunResumed => Event::RunResumed { who: self.who.ok_or("who")? },
            Kind::RunStopped => Event::RunStopped { who: self.who.ok_or("who")? },
            Kind::RecordingStarted => Event::RecordingStarted { start: self.start.ok_or("start")? },
            Kind::Input => Event::Input { path: self.path.ok_or("path")?, input: self.input.ok_or("input")? },
            Kind::Told => {
                Event::Told { thread: self.thread.ok_or("thread")?, told: self.told.ok_or("told")? }
            }
            Kind::Heard => Event::Heard {
                asked: self.asked.ok_or("asked")?,
                said: self.said.ok_or("said")?,
                payload: self.payload,
            },
            Kind::Left => Event::Left { path: self.path.ok_or("path")?, sha256: self.sha256 },
            Kind::RecordingBroken => Event::RecordingBroken { text: self.text.ok_or("text")? },
            Kind::SessionClosed => Event::SessionClosed { exit: self.exit },
        })
    }
}

fn missing<E: de::Error>(field: &str) -> E {
    E::custom(format_args!("record has no `{field}`"))
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let flat = Flat::deserialize(d)?;
        if flat.v.is_some() || flat.seq.is_some() || flat.ts.is_some() || flat.session.is_some() {
            return Err(de::Error::custom("an event alone has no `v`, `seq`, `ts` or `session`"));
        }
        flat.into_event().map_err(missing)
    }
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let mut flat = Flat::deserialize(d)?;
        match flat.v {
            Some(TRACE_VERSION) => {}
            Some(v) => return Err(de::Error::custom(format_args!("record version {v} is not known"))),
            None => return Err(missing("v")),
        }
        Ok(Self {
            seq: flat.seq.ok_or_else(|| missing("seq"))?,
            ts: flat.ts.ok_or_else(|| missing("ts"))?,
            session: flat.session.take().ok_or_else(|| missing("session"))?,
            event: flat.into_event().map_err(missing)?,
        })
    }
}

impl schemars::JsonSchema for Record {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Record".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let mut schema = Flat::json_schema(generator);
        schema.insert("required".into(), serde_json::json!(["v", "seq", "ts", "session", "type"]));
        schema
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heard::{End, Field};
    use crate::{AbsPath, Action, FileRef, Hold, Lane, Reason, Rights};

    fn events() -> Vec<Event> {
        let file = FileRef::at(AbsPath::new(b"/w/a").unwrap());
        let request = Request {
            action: Action::Open { file, rights: Rights::READ },
            subject: crate::Subject { pid: 1, tid: 1, ..Default::default() },
            context: crate::Context::default(),
        };
        let coverage = Coverage { lane: Lane::Runtime, trace: Hold::Binding, verbs: vec![], notes: vec![] };
        let scope = vec![Text::from("web_search")];
        vec![
            Event::SessionOpened {
                policy: "00".into(),
                coverage: coverage.into(),
                command: vec!["python".into()],
            },
            Event::Decided {
                op: 3,
                request: request.into(),
                decision: Decision::deny(Reason::NotGranted, Default::default()),
                enforced: true,
                ns: 250,
            },
            Event::Approval { op: 3, pid: 1, answer: Answer::Approved, who: "me".into() },
            Event::Concluded { op: 3, pid: 1, outcome: Outcome::Failed(2) },
            Event::ScopeEntered { pid: 1, tid: 1, scope: scope.clone(), step: None },
            Event::ScopeLeft { pid: 1, tid: 1, scope },
            Event::ProcessJoined { pid: 2, parent: 1, exe: "/bin/x".into() },
            Event::ProcessLeft { pid: 2 },
            Event::SegmentOpened { segment: 1, root: "AA==".into() },
            Event::Notice { text: "x".into() },
            Event::RunPaused { who: "me".into() },
            Event::RunResumed { who: "me".into() },
            Event::RunStopped { who: "me".into() },
            Event::RecordingStarted {
                start: Start {
                    program: "/usr/bin/x".into(),
                    args: vec!["-a".into()],
                    env: vec!["A=b".into()],
                    cwd: "/w".into(),
                    tmp: "/tmp/t".into(),
                    trust: Some("/tmp/c".into()),
                    uid: 1,
                    gid: 1,
                    umask: 0o022,
                }
                .into(),
            },
            Event::Input { path: "/w/a".into(), input: Input::Absent },
            Event::Input {
                path: "/w/b".into(),
                input: Input::Contents { sha256: "00".into(), size: 1, kept: true },
            },
            Event::Told {
                thread: "0/0".into(),
                told: Told::Clock { clock: 1, at: crate::input::Moment { s: 1, ns: 2 } },
            },
            Event::Heard {
                asked: Asked::Connection { to: ([127, 0, 0, 1], 80).into() },
                said: Said::Failed { errno: 111 },
                payload: None,
            },
            Event::Heard {
                asked: Asked::Request { method: "GET".into(), url: "http://a/".into(), body: "00".into() },
                said: Said::Response {
                    status: 200,
                    reason: None,
                    fields: vec![Field { name: "a".into(), value: "b".into() }],
                    trailers: vec![],
                    end: End::Whole,
                },
                payload: Some(Payload { sha256: "00".into(), size: 1, kept: true }),
            },
            Event::Left { path: "/w/a".into(), sha256: Some("00".into()) },
            Event::Left { path: "/w/a".into(), sha256: None },
            Event::RecordingBroken { text: "x".into() },
            Event::SessionClosed { exit: Some(0) },
        ]
    }

    #[test]
    fn every_event_survives_json_alone_and_in_a_record() {
        for event in events() {
            let json = serde_json::to_string(&event).unwrap();
            assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event, "{json}");
            let record = Record { seq: 7, ts: Timestamp(1), session: "s".into(), event };
            let json = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record, "{json}");
        }
    }

    #[test]
    fn a_later_version_is_not_guessed_at() {
        let error = serde_json::from_str::<Record>(
            r#"{"v":2,"seq":0,"ts":"2026-01-01T00:00:00Z","session":"s","type":"notice","text":"x"}"#,
        );
        assert_eq!(
            error.unwrap_err().to_string().split(" at ").next(),
            Some("record version 2 is not known")
        );
    }
}
