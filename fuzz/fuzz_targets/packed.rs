//! What an agent's process hands over is an event with one compact form and one JSON form, or nothing.
#![no_main]

use failcore_model::Event;
use failcore_trace::{Unpacker, pack};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut unpacker = Unpacker::default();
    let Ok(event) = unpacker.unpack(bytes) else { return };
    let mut packed = Vec::new();
    pack(&event, &mut packed).expect("what was unpacked can be packed");
    assert_eq!(unpacker.unpack(&packed).expect("what was packed can be unpacked"), event);
    let json = serde_json::to_vec(&event).expect("what was unpacked can be written");
    assert_eq!(serde_json::from_slice::<Event>(&json).expect("what was written can be read"), event);
});
