//! A record, an event and a request that can be read are written in a form that reads the same.
#![no_main]

use std::fmt::Debug;

use failcore_model::{Event, Record, Request};

libfuzzer_sys::fuzz_target!(|json: &[u8]| {
    round_trip::<Record>(json);
    round_trip::<Event>(json);
    round_trip::<Request>(json);
});

fn round_trip<T: serde::de::DeserializeOwned + serde::Serialize + PartialEq + Debug>(json: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(json) else { return };
    let text = serde_json::to_vec(&value).expect("what was read can be written");
    let again: T = serde_json::from_slice(&text).expect("what was written can be read");
    assert_eq!(again, value);
    assert_eq!(serde_json::to_vec(&again).expect("written once already"), text, "one form");
}
