//! One record with all it takes to believe it, apart from the rest of the trace.

use std::path::Path;

use failcore_model::Record;
use serde::{Deserialize, Serialize};
use tlog_tiles::tlog::{
    Error as TlogError, Hash, HashReader, check_record, prove_record, split_stored_hash_index,
};

use crate::checkpoint::{self, Checkpoints};
use crate::lines::{Lines, Step};
use crate::merkle::{Frontier, record_hash};
use crate::verify::Leaves;
use crate::{TraceError, VerifyingKey, layout};

/// A record, its inclusion proof (RFC 6962 §2.1.1) and the signed checkpoint that it leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// Version of this form.
    pub v: u32,
    /// The record's place.
    pub seq: u64,
    /// The record's line, byte for byte, without its newline.
    pub record: String,
    /// The audit path in base64, the leaf's sibling first.
    pub path: Vec<String>,
    /// The signed checkpoint (C2SP tlog-checkpoint).
    pub checkpoint: String,
    /// The key that signed it, for finding it; believing it needs the key from elsewhere.
    pub key: String,
}

/// Takes record `seq` out of a trace with its proof.
///
/// # Errors
/// [`TraceError::NoRecord`] where no checkpoint covers it, [`TraceError::Unverified`] where the trace is not what was
/// signed.
pub fn prove(dir: &Path, seq: u64) -> Result<Proof, TraceError> {
    let key = VerifyingKey::load(&dir.join(layout::KEY))?;
    let mut checkpoints = Checkpoints::open(&dir.join(layout::CHECKPOINTS), &key)?;
    let mut last = None;
    while let Some(next) = checkpoints.next()? {
        last = Some(next);
    }
    let signed = last.as_ref().map_or(0, |(head, ..)| head.size);
    let (head, _, note) = last.filter(|_| seq < signed).ok_or(TraceError::NoRecord { seq, signed })?;
    let unverified = |why: &str| TraceError::Unverified(format!("record {seq} {why}"));

    let path = prove_record(head.size, seq, &Subtrees { dir }).map_err(|_| unverified("has no leaf hash"))?;
    let record = line(dir, seq)?.ok_or_else(|| unverified("is not there"))?;
    check_record(&path, head.size, head.root, seq, record_hash(record.as_bytes()))
        .map_err(|_| unverified("is not what was signed, or the leaf hashes are not"))?;
    Ok(Proof {
        v: 1,
        seq,
        record,
        path: path.iter().map(Hash::to_string).collect(),
        checkpoint: String::from_utf8(note).map_err(|_| unverified("has no readable checkpoint"))?,
        key: key.to_string(),
    })
}

/// Checks a proof against the signer's key; the record that it proves.
///
/// # Errors
/// [`TraceError::BadProof`] for anything that does not hold.
pub fn verify_proof(proof: &Proof, key: &VerifyingKey) -> Result<Record, TraceError> {
    let bad = TraceError::BadProof;
    if proof.v != 1 {
        return Err(bad("its version is not known"));
    }
    let (head, session) = checkpoint::open(proof.checkpoint.as_bytes(), key)
        .map_err(|_| bad("the checkpoint is not signed by this key"))?;
    // A path is as long as the tree is high: 64 at most.
    if proof.path.len() > 64 || proof.seq >= head.size {
        return Err(bad("the record is not within the checkpoint"));
    }
    let path: Vec<Hash> = proof
        .path
        .iter()
        .map(|hash| Hash::parse_hash(hash))
        .collect::<Result<_, _>>()
        .map_err(|_| bad("its path holds no hashes"))?;
    check_record(&path, head.size, head.root, proof.seq, record_hash(proof.record.as_bytes()))
        .map_err(|_| bad("the path does not lead from the record to the checkpoint"))?;
    let record: Record =
        serde_json::from_str(&proof.record).map_err(|_| bad("what it proves is no record"))?;
    if record.seq != proof.seq || *record.session != session {
        return Err(bad("the record is of another place"));
    }
    Ok(record)
}

fn line(dir: &Path, seq: u64) -> Result<Option<String>, TraceError> {
    let mut lines = Lines::open(dir)?;
    let mut at = 0;
    while let Step::Line { .. } = lines.step()? {
        if at == seq {
            let text = lines.text().to_vec();
            return String::from_utf8(text).map(Some).map_err(|_| lines.bad("it is not UTF-8"));
        }
        at += 1;
    }
    Ok(None)
}

/// Perfect subtrees of the log, computed from the leaf hashes without keeping them.
struct Subtrees<'a> {
    dir: &'a Path,
}

impl HashReader for Subtrees<'_> {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, TlogError> {
        let broken = |e: TraceError| TlogError::InvalidInput(e.to_string());
        // Asked for from left to right, none within another: one pass does.
        let mut leaves = Leaves::open(&self.dir.join(layout::LEAVES)).map_err(broken)?;
        let mut at = 0u64;
        let mut hashes = Vec::with_capacity(indexes.len());
        for (level, n) in indexes.iter().map(|index| split_stored_hash_index(*index)) {
            let (start, end) = (n << level, (n + 1) << level);
            if start < at {
                return Err(TlogError::IndexesOutOfOrder);
            }
            let mut subtree = Frontier::default();
            while at < end {
                let leaf = leaves.next().map_err(broken)?.ok_or(TlogError::IndexesNotInTree)?;
                if at >= start {
                    subtree.push(leaf);
                }
                at += 1;
            }
            hashes.push(subtree.root());
        }
        Ok(hashes)
    }
}
