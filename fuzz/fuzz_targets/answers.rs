//! Whatever a name server says, what is taken of it belongs to the name, fits into an answer, and holds no address hints.
#![no_main]

use failcore_net::{Chain, Question, Reply};
use hickory_proto::op::Message;
use hickory_proto::rr::{RData, RecordType};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // The kind that is asked for, and an answer to it.
    let Some((kind, bytes)) = bytes.split_first_chunk() else { return };
    let kind = RecordType::from(u16::from_be_bytes(*kind));
    let Ok(message) = Message::from_vec(bytes) else { return };
    let Some(query) = message.queries.first() else { return };
    let mut chain = Chain::of(query.name().clone(), kind);
    while let Ok(true) = chain.extend(&message.answers) {}
    assert!(chain.aliases().len() <= 8 && chain.records().len() <= 256);
    for record in chain.records() {
        assert!(record.name == *chain.end() && record.record_type() == kind && record.ttl >= chain.ttl());
        let text = record.data.to_string();
        let service = matches!(record.data, RData::HTTPS(_) | RData::SVCB(_));
        assert!(!service || !["ipv4hint=", "ipv6hint=", "ech="].iter().any(|hint| text.contains(hint)), "{text}");
    }
    // As it is handed out.
    let mut asked = Message::query();
    asked.add_query(hickory_proto::op::Query::query(query.name().clone(), kind));
    let Ok(Ok(question)) = asked.to_vec().map(|bytes| Question::read(&bytes)) else { return };
    let has = Reply::Has { records: chain.records(), aliases: chain.aliases(), ttl: 60 };
    assert!(question.datagram(has).len() <= 1232);
    let stream = question.stream(has);
    assert!(Message::from_vec(&stream[2..]).is_ok());
});
