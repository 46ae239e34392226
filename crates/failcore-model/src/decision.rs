//! The answer to a request.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// Allow or deny. There is no third: waiting for a person is an [`Obligation`] on an allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The policy grants it.
    Allow,
    /// It is refused.
    Deny,
}

/// A verdict with what made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// Allow or deny.
    pub verdict: Verdict,
    /// The one word for why.
    pub reason: Reason,
    /// The rules that made it, the deciding one first.
    #[serde(default, skip_serializing_if = "SmallVec::is_empty")]
    #[schemars(with = "Vec<RuleId>")]
    pub rules: SmallVec<[RuleId; 2]>,
    /// What must happen before an allow takes effect.
    #[serde(default, skip_serializing_if = "SmallVec::is_empty")]
    #[schemars(with = "Vec<Obligation>")]
    pub obligations: SmallVec<[Obligation; 1]>,
    /// Faults met while deciding; any fault is a deny.
    #[serde(default, skip_serializing_if = "SmallVec::is_empty")]
    #[schemars(with = "Vec<Fault>")]
    pub faults: SmallVec<[Fault; 1]>,
}

impl Decision {
    /// An allow made by `rules`.
    pub fn allow(rules: SmallVec<[RuleId; 2]>) -> Self {
        Self {
            verdict: Verdict::Allow,
            reason: Reason::Granted,
            rules,
            obligations: SmallVec::new(),
            faults: SmallVec::new(),
        }
    }

    /// A deny for `reason`, made by `rules`.
    pub fn deny(reason: Reason, rules: SmallVec<[RuleId; 2]>) -> Self {
        Self { verdict: Verdict::Deny, reason, rules, obligations: SmallVec::new(), faults: SmallVec::new() }
    }

    /// A deny because something inside failed.
    pub fn fault(fault: Fault) -> Self {
        Self { faults: SmallVec::from_buf([fault]), ..Self::deny(Reason::Fault, SmallVec::new()) }
    }

    /// Whether the verdict is allow.
    pub fn is_allow(&self) -> bool {
        self.verdict == Verdict::Allow
    }
}

/// A rule's name: `source#section.key[index]`, or the `id` its author gave.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct RuleId(Arc<str>);

impl RuleId {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<T: AsRef<str> + ?Sized> From<&T> for RuleId {
    fn from(text: &T) -> Self {
        Self(text.as_ref().into())
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal),* $(,)?) => {
        /// Why a decision came out as it did; a fixed list of codes, in trace, Python and documentation alike.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
        pub enum Reason {
            $($(#[doc = $doc])* #[serde(rename = $text)] $name,)*
        }

        impl Reason {
            /// Every reason code.
            pub const ALL: &[Reason] = &[$(Reason::$name,)*];

            /// The code.
            pub const fn as_str(self) -> &'static str {
                match self { $(Reason::$name => $text,)* }
            }

            /// What the code means, as a sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Reason::$name => concat!($($doc),*).trim_ascii(),)* }
            }
        }
    };
}

reasons! {
    /// A permit covers it and nothing forbids it.
    Granted = "granted",
    /// No permit covers it.
    NotGranted = "not_granted",
    /// A deny entry forbids it; nothing lifts that.
    Forbidden = "forbidden",
    /// A caution forbids it; only an exact grant lifts that.
    Caution = "caution",
    /// It is always refused, whatever the policy says.
    Always = "always",
    /// The permit's `until` has passed.
    Expired = "expired",
    /// The session grants it, a tool scope does not.
    OutsideScope = "outside_scope",
    /// A name permit does not cover a special-purpose address.
    SpecialAddress = "special_address",
    /// The address was not resolved from a granted name by FailCore, nor granted as an address.
    Unpinned = "unpinned",
    /// A read-only open of something that is not there and not granted.
    Absent = "absent",
    /// A budget of `[limits]` is used up.
    OverBudget = "over_budget",
    /// Moving a directory would carry something denied below it.
    DeniedBelow = "denied_below",
    /// A person refused it.
    Refused = "refused",
    /// Nobody answered in time.
    ApprovalTimeout = "approval_timeout",
    /// No decoder knows the operation.
    Unmapped = "unmapped",
    /// The resource's name is malformed (NUL, over-long, no valid host).
    Malformed = "malformed",
    /// The trace cannot be written.
    TraceUnwritable = "trace_unwritable",
    /// Something inside failed.
    Fault = "fault",
    /// It is granted only as a connection that is carried, which this lane cannot do.
    Uncarried = "uncarried",
    /// A program that is run again does what it did not do when it was recorded.
    Diverged = "diverged",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What must happen before, or because of, an allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Obligation {
    /// A person must approve; discharged by the gate.
    Approve,
    /// The record is flagged and the owner notified.
    Audit,
    /// The connection is made to the relay, which judges what is said on it.
    Carry,
}

/// Something inside that failed while deciding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fault {
    /// A panic was caught.
    Panic,
    /// The operation could not be decoded.
    Decode,
    /// The object could not be resolved for a reason other than its absence.
    Resolve,
    /// The clock could not be read or ran backwards.
    Clock,
    /// A scope was named that the session does not know how to judge.
    Scope,
}
