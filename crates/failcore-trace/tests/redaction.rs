//! Secrets do not reach the trace, and what is no secret is left alone.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs;
use std::path::Path;

use common::{POLICY, decided};
use failcore_model::*;
use failcore_trace::{Options, Reader, Redactor, SigningKey, Writer, is_redacted, redacted_field, verify};
use proptest::prelude::*;

/// Writes the events; the trace's text and its events as read back.
fn record(redactor: Redactor, events: &[Event]) -> (String, Vec<Event>) {
    let home = tempfile::tempdir().unwrap();
    record_in(home.path(), &SigningKey::generate().unwrap(), redactor, events)
}

fn record_in(dir: &Path, key: &SigningKey, redactor: Redactor, events: &[Event]) -> (String, Vec<Event>) {
    let dir = dir.join(failcore_trace::new_session_id());
    let options = Options { redactor: Some(redactor), ..Options::default() };
    let mut writer = Writer::create_with(&dir, "s", key, POLICY, options).unwrap();
    writer.append_all(events).unwrap();
    writer.close(None).unwrap();
    assert!(verify(&dir, None).unwrap().is_valid());
    let events = Reader::open(&dir).unwrap().map(|record| record.unwrap().event).take(events.len()).collect();
    (fs::read_to_string(dir.join("trace.jsonl")).unwrap(), events)
}

fn notice(text: &str) -> Event {
    Event::Notice { text: text.into() }
}

fn exec(argv: &[&[u8]]) -> Event {
    let Event::Decided { op, mut request, decision, enforced, ns } = decided(1) else { unreachable!() };
    let image = FileRef::at(AbsPath::new(b"/usr/bin/curl").unwrap());
    std::sync::Arc::make_mut(&mut request).action =
        Action::Exec { image, argv: argv.iter().map(Text::from).collect() };
    Event::Decided { op, request, decision, enforced, ns }
}

fn argv(event: &Event) -> Vec<Text> {
    match event {
        Event::Decided { request, .. } => match &request.action {
            Action::Exec { argv, .. } => argv.clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// Secrets of each shape, built from parts so that no scanner takes this file for a leak.
fn secrets() -> Vec<(String, &'static str)> {
    let long = "aB3dE5fG7hJ9kL1mN3pQ5rS7tU9vW1xY3zA5bC7";
    vec![
        (format!("sk-proj-{long}"), "secret-key"),
        (format!("sk-{}ant-{long}", ""), "secret-key"),
        (format!("sk_{}_{}", "live", &long[..24]), "secret-key"),
        (format!("ghp_{}", &long[..36]), "github"),
        (format!("gho_{}", &long[..36]), "github"),
        (format!("github_pat_{}", &long[..30]), "github"),
        (format!("glpat-{}", &long[..20]), "gitlab"),
        (format!("AKIA{}", "Z7QWERTYUIOPASDF"), "aws"),
        (format!("xoxb-{}-{}", "123456789012", &long[..20]), "slack"),
        (format!("AIza{}", &long[..35]), "google"),
        (format!("hf_{}", &long[..34]), "huggingface"),
        (format!("npm_{}", &long[..36]), "npm"),
        (format!("eyJ{}.eyJ{}.{long}", &long[..20], &long[..20]), "jwt"),
    ]
}

#[test]
fn every_shape_is_taken_out_wherever_it_stands() {
    for (secret, name) in secrets() {
        for around in [
            ("", ""),
            ("x ", " y"),
            ("line\n", "\nline"),
            ("\"", "\""),
            ("export KEY\t", ";"),
            ("é", "é"),
            ("%20", "%20"),
        ] {
            let text = format!("{}{secret}{}", around.0, around.1);
            let (file, events) =
                record(Redactor::default(), &[notice(&text), exec(&[b"a", text.as_bytes()])]);
            assert!(!file.contains(&secret), "{text}");
            assert!(file.contains(&format!("[redacted:{name}:")), "{text}: {file}");
            let Event::Notice { text: clean } = &events[0] else { panic!() };
            assert!(
                clean.starts_with(around.0) && (clean.ends_with(around.1) || around.1 == "%20"),
                "{clean}"
            );
            assert!(is_redacted(clean.as_bytes()) && is_redacted(argv(&events[1])[1].as_bytes()));
        }
        // In bytes that are not UTF-8 and so stand as hexadecimal.
        let raw = [b"\xff ".as_slice(), secret.as_bytes(), b" \xfe"].concat();
        let (_, events) = record(Redactor::default(), &[exec(&[&raw])]);
        let clean = argv(&events[0]).remove(0);
        assert!(clean.as_bytes().starts_with(b"\xff [redacted:") && clean.as_bytes().ends_with(b"] \xfe"));
    }
}

#[test]
fn values_are_taken_out_of_headers_urls_assignments_and_options() {
    let redact = |text: &str| {
        let (_, events) = record(Redactor::default(), &[notice(text)]);
        let Event::Notice { text } = &events[0] else { panic!() };
        let digest = regex::Regex::new("[0-9a-f]{12}]").unwrap();
        digest.replace_all(text, "…]").into_owned()
    };
    for (text, expected) in [
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: [redacted:header:…]"),
        ("curl -H 'X-Api-Key: abc' u", "curl -H 'X-Api-Key: [redacted:header:…]' u"),
        ("cookie: a=b; c=d\r\nhost: x", "cookie: [redacted:header:…]\r\nhost: x"),
        ("say Bearer abcdefghijklmnop==.", "say Bearer [redacted:bearer:…]."),
        ("postgres://me:pa%20ss@db/x", "postgres://me:[redacted:url-password:…]@db/x"),
        ("https://:tok@h/", "https://:[redacted:url-password:…]@h/"),
        ("OPENAI_API_KEY=foobar1 run", "OPENAI_API_KEY=[redacted:assignment:…] run"),
        ("--db-password='hunter22'", "--db-password='[redacted:assignment:…]'"),
        ("GET /x?access_token=abcdef&y=1", "GET /x?access_token=[redacted:assignment:…]&y=1"),
        (
            "a\n-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----\nb",
            "a\n[redacted:private-key:…]\nb",
        ),
        ("-----BEGIN PRIVATE KEY-----\nMHcCAQEE", "[redacted:private-key:…]"),
    ] {
        assert_eq!(redact(text), expected);
    }
    let (_, events) = record(
        Redactor::default(),
        &[exec(&[b"mysql", b"--password", b"hunter2", b"-h", b"db"]), exec(&[b"--token"]), exec(&[b"kept"])],
    );
    let args: Vec<String> = argv(&events[0]).iter().map(Text::to_string).collect();
    assert!(args[2].starts_with("[redacted:option:") && args[4] == "db", "{args:?}");
    assert_eq!(argv(&events[2])[0], Text::from("kept"));
}

#[test]
fn what_is_no_secret_is_left_alone() {
    let texts = [
        "sk-learn disk-usage task-runner-with-a-name",
        "/usr/lib/python3/site-packages/transformers/tokenization_utils.py",
        "--max-tokens=100000 keyboard=us monkey=banana",
        "https://example.com/a?b=c#d git@github.com:a/b ssh://git@host/x",
        "the bearer of this letter",
        "asia/akiachan hf_hub xoxo eyJ",
        "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----",
        "[redacted:secret-key:0123456789ab]",
        "key=short",
    ];
    let events: Vec<Event> = texts.iter().map(|text| notice(text)).chain([decided(1)]).collect();
    let (_, read) = record(Redactor::default(), &events);
    assert_eq!(read, events);
}

#[test]
fn equal_secrets_compare_equal_and_only_under_one_key() {
    let home = tempfile::tempdir().unwrap();
    let (one, two) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let secrets = secrets();
    let events = [notice(&secrets[0].0), notice(&secrets[0].0), notice(&secrets[1].0)];
    let (_, first) = record_in(home.path(), &one, Redactor::default(), &events);
    let (_, again) = record_in(home.path(), &one, Redactor::default(), &events);
    let (_, other) = record_in(home.path(), &two, Redactor::default(), &events);
    assert_eq!(first[0], first[1]);
    assert_ne!(first[0], first[2]);
    assert_eq!(first, again);
    assert_ne!(first[0], other[0], "the digest needs the key");
}

#[test]
fn values_of_listed_variables_are_taken_out() {
    let redactor = Redactor::default()
        .with_env("DB_PIN", b"tr\"ub\n4")
        .with_env("SHORT", b"abc")
        .with_env("RAW", b"\xff\xfe\xfd\xfc\xfb\xfa");
    assert!(!format!("{redactor:?}").contains("ub"));
    let (file, events) =
        record(redactor, &[notice("x tr\"ub\n4 abc y"), exec(&[b"a\xff\xfe\xfd\xfc\xfb\xfab"])]);
    assert!(file.contains("[redacted:DB_PIN:") && file.contains(" abc y"), "{file}");
    assert!(argv(&events[1])[0].as_bytes().starts_with(b"a[redacted:RAW:"));
}

#[test]
fn variables_that_say_so_are_taken_out_unasked() {
    let environment =
        [("MY_API_KEY", "abcdef123456"), ("SOME_TOKEN", "short"), ("EDITOR", "emacs-is-an-editor")];
    let redactor =
        Redactor::default().with_secrets_of(environment.map(|(name, value)| (name.into(), value.into())));
    let text = "abcdef123456 short emacs-is-an-editor";
    let (file, _) = record(redactor, &[notice(text)]);
    assert!(file.contains("[redacted:MY_API_KEY:") && file.contains("] short emacs-is-an-editor"), "{file}");
}

#[test]
fn a_redacted_request_says_which_part_it_lost() {
    let secret = secrets()[3].0.to_lowercase();
    let host = HostName::parse(&format!("{secret}.evil.example")).unwrap();
    let path = AbsPath::new(format!("/tmp/{secret}").as_bytes()).unwrap();
    let Event::Decided { mut request, decision, .. } = decided(1) else { unreachable!() };
    for (action, field) in [
        (Action::Resolve(host), Some("host")),
        (Action::Read(FileRef::at(path)), Some("path")),
        (Action::EnvRead(secret.as_str().into()), Some("name")),
        (Action::Read(FileRef::at(AbsPath::new(b"/tmp/redacted-x").unwrap())), None),
    ] {
        std::sync::Arc::make_mut(&mut request).action = action;
        let event = Event::Decided {
            op: 1,
            request: request.clone(),
            decision: decision.clone(),
            enforced: true,
            ns: 1,
        };
        let (file, events) = record(Redactor::default(), &[event]);
        assert!(!file.contains(&secret), "{file}");
        let Event::Decided { request, .. } = &events[0] else { panic!() };
        assert_eq!(redacted_field(request), field);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_the_bytes_a_record_stays_a_record(
        args in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..5),
        noise in "(token=|sk-|://|:|@|\"|\\\\|hex|\\{\"hex\":|bearer |[a-z0-9]{1,30}|\n){0,12}",
    ) {
        let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).chain([noise.as_bytes()]).collect();
        let events = [exec(&args), notice(&noise)];
        let (_, read) = record(Redactor::default(), &events);
        prop_assert_eq!(argv(&read[0]).len(), args.len());
        for (before, after) in args.iter().zip(argv(&read[0])) {
            prop_assert!(*before == after.as_bytes() || is_redacted(after.as_bytes()));
        }
    }
}
