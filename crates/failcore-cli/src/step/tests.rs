//! Stepping through real traces, on a screen that can be read back.

use std::path::{Path, PathBuf};

use failcore_model::heard::{Asked, Payload, Said};
use failcore_model::input::{Input, Moment, Told};
use failcore_model::{
    AbsPath, Action, Answer, Context, Coverage, Event, FileRef, Hold, Lane, Outcome, Request, Rights,
    Subject, Text,
};
use failcore_policy::{Environment, PolicySet, ask};
use failcore_record::Store;
use failcore_trace::{SigningKey, Writer};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use sha2::{Digest, Sha256};

use super::*;
use crate::trace::believed;

const POLICY: &str = r#"version = 1
name = "tested"

[fs]
read = ["/data"]
write = [{ path = "/work", approve = true }]
deny = [{ path = "**/.env", id = "no-secrets", reason = "secrets stay here" }]

[net]
connect = ["api.example.com:443"]
"#;

/// A trace that is being made.
struct Making {
    dir: PathBuf,
    writer: Writer,
    policy: PolicySet,
    ops: u64,
}

impl Making {
    fn new(dir: &Path) -> Self {
        let policy =
            PolicySet::parse("policy.toml", POLICY, &AbsPath::root(), &Environment::default()).unwrap();
        let key = SigningKey::generate().unwrap();
        let mut writer = Writer::create(dir, "0190c0de", &key, policy.resolved()).unwrap();
        let coverage = Coverage { lane: Lane::Kernel, trace: Hold::Binding, verbs: vec![], notes: vec![] };
        let command = vec!["python".into(), "agent.py".into()];
        let opened =
            Event::SessionOpened { policy: policy.digest().into(), coverage: coverage.into(), command };
        writer.append(&opened).unwrap();
        Self { dir: dir.into(), writer, policy, ops: 0 }
    }

    fn event(&mut self, event: &Event) {
        self.writer.append(event).unwrap();
    }

    /// A decision, inside a tool where one is named.
    fn asks(&mut self, tool: Option<&str>, words: &str) {
        self.decided(tool, ask(words, &AbsPath::root(), &Environment::default()).unwrap());
    }

    fn decided(&mut self, tool: Option<&str>, mut request: Request) {
        (request.subject.pid, request.subject.tid) = (7, 7);
        request.subject.exe = "/usr/bin/python3".into();
        request.subject.claimed.scope = tool.map(Text::from).into_iter().collect();
        request.subject.claimed.site = Some("/home/me/agent.py:12".into());
        let decision = self.policy.decide(&request);
        let event =
            Event::Decided { op: self.ops, request: request.into(), decision, enforced: true, ns: 250 };
        self.ops += 1;
        self.event(&event);
    }

    fn entered(&mut self, tool: &str) {
        let scope = vec![tool.into()];
        self.event(&Event::ScopeEntered { pid: 7, tid: 7, scope, step: Some("look it up".into()) });
    }

    fn left(&mut self, tool: &str) {
        self.event(&Event::ScopeLeft { pid: 7, tid: 7, scope: vec![tool.into()] });
    }

    fn contents(&mut self, store: &mut Store, path: &str, bytes: &[u8], kept: bool) {
        let sha256 = format!("{:x}", Sha256::digest(bytes));
        if kept {
            store.put(&sha256, bytes).unwrap();
        }
        let input = Input::Contents { sha256, size: bytes.len() as u64, kept };
        self.event(&Event::Input { path: path.into(), input });
    }

    fn close(self) -> PathBuf {
        self.writer.close(Some(0)).unwrap();
        self.dir
    }
}

/// The trace that most tests go through.
fn sample(dir: &Path) -> PathBuf {
    let mut trace = Making::new(dir);
    trace.asks(None, "fs.open read /data/a.txt"); // 1
    trace.entered("fetch"); // 2
    trace.asks(Some("fetch"), "net.connect api.example.com:443"); // 3
    trace.asks(Some("fetch"), "net.connect 169.254.169.254:80"); // 4
    trace.left("fetch"); // 5
    trace.asks(None, "fs.open create+modify /work/out.txt"); // 6
    trace.event(&Event::Approval { op: 3, pid: 7, answer: Answer::Approved, who: "me (uid 7)".into() }); // 7
    trace.event(&Event::Concluded { op: 3, pid: 7, outcome: Outcome::Failed(28) }); // 8
    trace.entered("save"); // 9
    trace.asks(Some("save"), "fs.open read /data/.env"); // 10
    trace.close() // 11
}

/// Somebody at a screen.
struct Seen {
    stepper: Stepper,
    terminal: Terminal<TestBackend>,
}

impl Seen {
    fn of(dir: &Path) -> Self {
        Self::from(dir, Filter::default(), None)
    }

    fn from(dir: &Path, filter: Filter, seq: Option<u64>) -> Self {
        let walk = Walk::begin(dir).unwrap();
        let stepper = Stepper::new(walk, &believed(dir).unwrap(), filter, seq).unwrap();
        let mut seen = Self { stepper, terminal: Terminal::new(TestBackend::new(110, 40)).unwrap() };
        seen.screen();
        seen
    }

    /// What is on the screen once all was found.
    fn screen(&mut self) -> String {
        let Self { stepper, terminal } = self;
        stepper.resize(Rect::from((Default::default(), terminal.size().unwrap())));
        while stepper.walk.is_busy() {
            stepper.walk.work(SLICE);
        }
        terminal.draw(|frame| stepper.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let rows = buffer.content.chunks(buffer.area.width.max(1).into());
        let rows = rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>());
        rows.map(|row| row.trim_end().to_owned()).collect::<Vec<_>>().join("\n").trim_end().to_owned()
    }

    /// Presses keys: characters, or `<Name>`s.
    fn press(&mut self, keys: &str) -> String {
        let mut rest = keys;
        while let Some(c) = rest.chars().next() {
            let named = rest.strip_prefix('<').and_then(|named| named.split_once('>'));
            let code = match named {
                Some((name, after)) => {
                    rest = after;
                    match name {
                        "Enter" => KeyCode::Enter,
                        "Esc" => KeyCode::Esc,
                        "Down" => KeyCode::Down,
                        "Up" => KeyCode::Up,
                        "PageDown" => KeyCode::PageDown,
                        "Backspace" => KeyCode::Backspace,
                        _ => panic!("no key `{name}`"),
                    }
                }
                None => {
                    rest = &rest[c.len_utf8()..];
                    KeyCode::Char(c)
                }
            };
            assert!(self.stepper.key(KeyEvent::from(code)), "`{keys}` leaves");
        }
        self.screen()
    }

    /// Where those keys lead.
    fn at(&mut self, keys: &str) -> u64 {
        self.press(keys);
        self.stepper.walk.position().at()
    }
}

/// Compares a screen, times replaced.
fn assert_screen(name: &str, screen: &str) {
    let filters = [
        (r"\d\d:\d\d:\d\d\.\d{3}", "[time]"),
        (r"policy [0-9a-f]{12}", "policy [digest]"),
        (r"root \S+", "root […]"),
    ];
    insta::with_settings!({ filters => filters }, { insta::assert_snapshot!(name, screen) });
}

#[test]
fn a_refusal_is_shown_with_its_rule_and_its_line() {
    let home = tempfile::tempdir().unwrap();
    let mut seen = Seen::of(&sample(&home.path().join("t")));
    assert_screen("refusal", &seen.press("d"));
}

#[test]
fn an_operation_is_shown_with_its_answer_and_its_outcome() {
    let home = tempfile::tempdir().unwrap();
    let mut seen = Seen::of(&sample(&home.path().join("t")));
    let screen = seen.press(":6<Enter>");
    for part in [
        "a person must approve it each time",
        "permit fs.write",
        "policy.toml:6:10",
        "     7 ",
        "approved operation 3 by me (uid 7)",
        "     8 ",
        "No space left on device",
    ] {
        assert!(screen.contains(part), "{part:?} in\n{screen}");
    }
    // And the answer with its operation.
    let screen = seen.press("jj");
    assert!(screen.contains("the operation") && screen.contains("asked   fs.open /work/out.txt"), "{screen}");
}

#[test]
fn keys_lead_where_they_say() {
    let home = tempfile::tempdir().unwrap();
    let mut seen = Seen::of(&sample(&home.path().join("t")));
    for (keys, at) in [
        ("j", 1),
        ("<Down>", 2),
        ("l", 3),
        ("ll", 6),
        ("h", 4),
        ("g", 0),
        ("s", 2),
        ("s", 9),
        ("s", 9),
        ("S", 2),
        ("S", 2),
        ("d", 4),
        ("d", 10),
        ("d", 10),
        ("D", 4),
        ("G", 11),
        ("k<Up>", 9),
        (":4<Enter>", 4),
        (":99<Enter>", 11),
        ("g/operation 3<Enter>", 7),
        ("n", 8),
        ("n", 8),
        ("N", 7),
        ("/--tool save<Enter>", 10),
        ("D/--denied 169<Enter>", 4),
        ("GN", 4),
        (":1<Esc>", 4),
        (":12<Backspace><Backspace>3<Enter>", 3),
        ("<PageDown>", 11),
    ] {
        assert_eq!(seen.at(keys), at, "{keys}\n{}", seen.screen());
    }
    assert!(!seen.stepper.key(KeyEvent::from(KeyCode::Char('q'))));
    assert!(!seen.stepper.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
}

#[test]
fn what_is_not_there_is_said() {
    let home = tempfile::tempdir().unwrap();
    let mut seen = Seen::of(&sample(&home.path().join("t")));
    for (keys, said) in [
        ("n", "nothing was searched for yet"),
        ("k", "no earlier record"),
        (":99<Enter>", "there is no record 99: the last one is 11"),
        (":x<Enter>", "`x` is no number"),
        ("d", "no further refusal"),
        ("/nowhere<Enter>", "no further match"),
        ("/--verb fs.reed<Enter>", "fs.reed"),
        ("F'<Enter>", "a quotation mark is not closed"),
    ] {
        let screen = seen.press(keys);
        assert!(screen.contains(said), "{keys}: {said:?} in\n{screen}");
        assert!(!seen.press("<Esc>").contains(said), "{keys}");
    }
}

#[test]
fn a_filter_leaves_out_what_it_does_not_show() {
    let home = tempfile::tempdir().unwrap();
    let dir = sample(&home.path().join("t"));
    let mut seen = Seen::of(&dir);
    let screen = seen.press("f");
    assert!(screen.contains("filter: --denied, which leaves this one out"), "{screen}");
    assert!(!screen.contains("/data/a.txt"), "{screen}");
    assert_eq!((seen.at("j"), seen.at("j"), seen.at("j"), seen.at("g")), (4, 10, 10, 4));
    assert!(!seen.screen().contains("which leaves"));
    assert!(seen.press("f").contains("/data/a.txt"));
    assert_eq!(seen.at("F--verb fs.* --path /work<Enter>j"), 6);
    assert!(seen.press("F<Enter>").contains("net.connect"));
    // As the command line has it.
    let denied = Filter { denied: true, ..Filter::default() };
    let mut seen = Seen::from(&dir, denied.clone(), None);
    assert_eq!(seen.at(""), 4);
    assert_eq!(Seen::from(&dir, denied, Some(3)).at(""), 3);
}

#[test]
fn tools_at_work_are_those_entered_and_not_left() {
    let home = tempfile::tempdir().unwrap();
    let mut seen = Seen::of(&sample(&home.path().join("t")));
    let tools = |screen: String| {
        let from = screen.find("tools at work").unwrap_or_else(|| panic!("{screen}"));
        screen[from..].lines().nth(1).unwrap().trim().to_owned()
    };
    assert_eq!(tools(seen.press("")), "none");
    assert_eq!(tools(seen.press(":2<Enter>")), "since 2  fetch  step look it up  process 7, thread 7");
    assert_eq!(tools(seen.press(":5<Enter>")), "none");
    assert_eq!(tools(seen.press("G")), "since 9  save  step look it up  process 7, thread 7");
}

#[test]
fn a_tool_that_is_entered_late_is_at_work_all_the_same() {
    let home = tempfile::tempdir().unwrap();
    let mut trace = Making::new(&home.path().join("t"));
    trace.asks(Some("fetch"), "fs.open read /data/a.txt");
    trace.entered("fetch");
    let mut seen = Seen::of(&trace.close());
    let screen = seen.press(":1<Enter>");
    assert!(screen.contains("now  fetch    process 7, thread 7"), "{screen}");
}

#[test]
fn what_was_read_is_shown() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("t");
    let mut trace = Making::new(&dir);
    let mut store = Store::create(&dir).unwrap();
    let answer = b"{\"answer\": 42}";
    let sha256 = format!("{:x}", Sha256::digest(answer));
    store.put(&sha256, answer).unwrap();
    trace.asks(None, "fs.open read /data/a.txt"); // 1
    trace.contents(&mut store, "/data/a.txt", b"first\nsecond \x1b[31mred\n", true); // 2
    trace.contents(&mut store, "/data/b.bin", b"\x7fELF\0\xff", true); // 3
    trace.contents(&mut store, "/data/c.txt", b"password=1", false); // 4
    trace.event(&Event::Told { thread: "0/0".into(), told: Told::Random { bytes: Text::from(b"\xff\0") } }); // 5
    let modified = Moment { s: 1, ns: 2 };
    trace.event(&Event::Input {
        path: "/data".into(),
        input: Input::Directory { mode: 0o755, modified, shown: None },
    }); // 6
    trace.asks(None, "fs.open read /data/a.txt"); // 7
    let url = "https://api.example.com/a".to_owned();
    trace.event(&Event::Heard {
        asked: Asked::Request { method: "GET".into(), url, body: sha256.clone() },
        said: Said::Connected { protocol: None },
        payload: Some(Payload { sha256, size: answer.len() as u64, kept: true }),
    }); // 8
    let dir = trace.close();
    let mut seen = Seen::of(&dir);
    for (at, parts) in [
        (1, vec!["what /data/a.txt held (record 2)", "first", "second \\u{1b}[31mred"]),
        (7, vec!["what /data/a.txt held (record 2)", "first"]),
        (2, vec!["what /data/a.txt held (record 2)", "first"]),
        (3, vec!["00000000  7f 45 4c 46 00 ff", ".ELF.."]),
        (4, vec!["10 bytes, of which only the hash was kept"]),
        (5, vec!["00000000  ff 00"]),
        (6, vec!["input.directory.mode"]),
        (8, vec!["what was answered to GET https://api.example.com/a", r#"{"answer": 42}"#]),
    ] {
        let mut screen = seen.press(&format!(":{at}<Enter>"));
        screen += &seen.press("JJJJ");
        for part in parts {
            assert!(screen.contains(part), "{at}: {part:?} in\n{screen}");
        }
    }
    // What was changed since is not shown as what was read.
    let pack = dir.join("objects/pack");
    let mut bytes = std::fs::read(&pack).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&pack, bytes).unwrap();
    let screen = Seen::from(&dir, Filter::default(), Some(3)).press("");
    assert!(screen.contains("is not what was recorded") && !screen.contains("ELF"), "{screen}");
}

#[test]
fn what_could_not_be_verified_is_said() {
    let home = tempfile::tempdir().unwrap();
    let dir = sample(&home.path().join("whole"));
    assert!(Seen::of(&dir).screen().contains("valid: 12 records"));
    // One that is still written.
    let mut trace = Making::new(&home.path().join("open"));
    trace.asks(None, "fs.open read /data/a.txt");
    drop(trace);
    let screen = Seen::of(&home.path().join("open")).screen();
    assert!(screen.contains("not closed: 0 records as signed, 2 more without a signature"), "{screen}");
    // Records alone.
    let bare = home.path().join("bare");
    std::fs::create_dir(&bare).unwrap();
    std::fs::copy(dir.join("trace.jsonl"), bare.join("trace.jsonl")).unwrap();
    let screen = Seen::of(&bare).press("d");
    for part in ["these records carry no signature", "its rules cannot be shown", "net.metadata", "caution"] {
        assert!(screen.contains(part), "{part:?} in\n{screen}");
    }
    // One that is no record does not keep the others from being seen.
    let text = std::fs::read_to_string(bare.join("trace.jsonl")).unwrap();
    std::fs::write(bare.join("trace.jsonl"), text.replacen(r#""seq":4"#, r#""seq":"\u001b[2J""#, 1)).unwrap();
    let mut seen = Seen::of(&bare);
    let screen = seen.press(":4<Enter>");
    assert!(screen.contains("trace.jsonl") && screen.contains("line 5"), "{screen}");
    assert!(seen.press("j").contains("left    fetch"));
    // What was altered is refused, as everywhere.
    let text = std::fs::read_to_string(dir.join("trace.jsonl")).unwrap();
    std::fs::write(dir.join("trace.jsonl"), text.replacen("169.254", "169.255", 1)).unwrap();
    assert!(believed(&dir).is_err());
}

#[test]
fn nothing_of_a_trace_controls_the_terminal() {
    const HOSTILE: &str = "\x1b]0;t\x07\x1b[2J\x1b[31m\u{9b}5m\r\x08\x7f";
    let home = tempfile::tempdir().unwrap();
    let mut trace = Making::new(&home.path().join("t"));
    let path = AbsPath::new(format!("/data/{HOSTILE}").as_bytes()).unwrap();
    let request = |action| Request { action, subject: Subject::default(), context: Context::default() };
    let read = Action::Open { file: FileRef::at(path.clone()), rights: Rights::READ };
    trace.decided(Some(HOSTILE), request(read));
    let argv = vec![HOSTILE.into(), Text::from(b"\xff\x1b")];
    trace.decided(None, request(Action::Exec { image: FileRef::at(path), argv }));
    trace.entered(HOSTILE);
    trace.event(&Event::Notice { text: HOSTILE.into() });
    trace.event(&Event::RunPaused { who: HOSTILE.into() });
    trace.event(&Event::Told { thread: HOSTILE.into(), told: Told::Random { bytes: HOSTILE.into() } });
    let mut seen = Seen::of(&trace.close());
    for _ in 0..8 {
        seen.press("j");
        for cell in &seen.terminal.backend().buffer().content {
            assert!(!cell.symbol().chars().any(char::is_control), "{:?}", cell.symbol());
        }
    }
    seen.press(&format!("F{HOSTILE}<Enter>"));
    assert!(seen.screen().contains("filter: ]0;t[2J"), "{}", seen.screen());
}

#[test]
fn every_key_is_explained() {
    let home = tempfile::tempdir().unwrap();
    let mut seen = Seen::of(&sample(&home.path().join("t")));
    let screen = seen.press("?") + &seen.press("JJJJ");
    for binding in keys::BINDINGS {
        assert!(
            screen.lines().any(|line| line.contains(binding.name) && line.contains(binding.what)),
            "{}",
            binding.name
        );
    }
    assert!(screen.contains("--tool NAME"));
    assert!(!seen.press("?").contains("--tool NAME"));
}

#[test]
fn any_size_of_screen_will_do() {
    let home = tempfile::tempdir().unwrap();
    let mut seen = Seen::of(&sample(&home.path().join("t")));
    for (width, height) in [(0, 0), (1, 1), (2, 5), (5, 2), (20, 8), (300, 3), (80, 24), (500, 200)] {
        seen.terminal.backend_mut().resize(width, height);
        for keys in ["g", "d", "J", "?", "J", "?", "/something long", "<Enter>", "<Esc>", "f", "f"] {
            seen.press(keys);
        }
    }
}

#[test]
fn without_colours_there_are_none() {
    let home = tempfile::tempdir().unwrap();
    let mut seen = Seen::of(&sample(&home.path().join("t")));
    seen.press("d");
    let coloured = |seen: &Seen| {
        seen.terminal.backend().buffer().content.iter().any(|cell| cell.fg != ratatui::style::Color::Reset)
    };
    assert!(coloured(&seen));
    seen.stepper.coloured = false;
    seen.press("");
    assert!(!coloured(&seen));
}
