//! Any bytes are some DNS message, and its answer is one, of bounded length.
#![no_main]

use std::net::IpAddr;

use failcore_model::HostName;
use failcore_net::{NoQuestion, Question, Reply};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let question = match Question::read(bytes) {
        Ok(question) => question,
        Err(NoQuestion::Answer(answer)) => return assert!(answer.len() <= bytes.len()),
        Err(NoQuestion::Silence) => return,
    };
    assert!(!question.text().contains('\0'));
    if let Ok(name) = question.name() {
        assert_eq!(HostName::parse(name.as_str()).as_ref(), Ok(&name));
    }
    let addrs: Vec<IpAddr> =
        (0..60).flat_map(|n| [[9, 9, 9, n].into(), [0x2606, 0, 0, 0, 0, 0, 0, 1].into()]).collect();
    let aliases: Vec<HostName> = ["cdn.example", "alias.example"].map(HostName::parse).into_iter().flatten().collect();
    let exists = Reply::Exists { addrs: &addrs, aliases: &aliases, ttl: 60 };
    for reply in [Reply::NoName, Reply::Failed, exists] {
        let datagram = question.datagram(reply);
        assert!(datagram.len() <= 1232);
        // What we write is an answer, which nobody answers.
        assert!(matches!(Question::read(&datagram), Err(NoQuestion::Silence)));
        let stream = question.stream(reply);
        assert_eq!(usize::from(u16::from_be_bytes([stream[0], stream[1]])), stream.len() - 2);
    }
});
