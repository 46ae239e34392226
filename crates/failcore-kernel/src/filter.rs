//! The seccomp filter: assembled from the table of calls into the kernel's classic BPF (seccomp(2), bpf(4)).
//!
//! Calls are found by a binary search over spans of numbers of which the same becomes, so that the table's length costs
//! little; those that are allowed whatever their arguments the kernel keeps in a bitmap and runs no filter for.

use crate::calls::{Row, Rule, tables};
use crate::metadata;
use crate::observed;

/// What is asked of a call's registers. Arguments are numbered from 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Test {
    /// The argument, as the 32 bits that the kernel looks at, or all 64 where it is a pointer being null.
    Is(u8, u64),
    /// Any of these bits is set in its lower half.
    Bits(u8, u64),
    /// Two arguments have these values.
    Both(u8, u64, u8, u64),
    /// One argument has this value, and another at least that.
    From(u8, u64, u8, u64),
    /// The type byte of an ioctl request.
    Type(u8, u8),
    /// The type byte of an ioctl request that is none of these.
    TypeBut(u8, u8, &'static [u64]),
    /// A stream socket of the internet, of this protocol or the default one.
    Stream(u64),
    /// A datagram socket of the internet, of this protocol or the default one.
    Datagram(u64),
}

/// One instruction, as `struct sock_filter` (linux/filter.h).
pub(crate) type Instruction = libc::sock_filter;

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e; // AUDIT_ARCH_X86_64
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7; // AUDIT_ARCH_AARCH64
/// Bit that marks the x32 entry point on x86-64.
const X32: u32 = 0x4000_0000;

const LD_ABS: u16 = 0x20;
const JEQ: u16 = 0x15;
const JGE: u16 = 0x35;
const JSET: u16 = 0x45;
const JA: u16 = 0x05;
const AND: u16 = 0x54;
const RET: u16 = 0x06;

const NR: u32 = 0;
const ARCHITECTURE: u32 = 4;

const fn op(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
    Instruction { code, jt, jf, k }
}

const fn low(arg: u8) -> Instruction {
    op(LD_ABS, 0, 0, 16 + 8 * arg as u32)
}

const fn high(arg: u8) -> Instruction {
    op(LD_ABS, 0, 0, 20 + 8 * arg as u32)
}

/// The whole filter for this machine; `recorded` where calls that only look are seen too.
pub(crate) fn assemble(recorded: bool, plays: bool) -> Vec<Instruction> {
    let refuse = ret(Rule::Refuse(libc::ENOSYS));
    let mut program = vec![
        op(LD_ABS, 0, 0, ARCHITECTURE),
        op(JEQ, 1, 0, ARCH),
        // The 32-bit entry: other numbers, other structures. Nobody gets in that way.
        refuse,
        op(LD_ABS, 0, 0, NR),
    ];
    if cfg!(target_arch = "x86_64") {
        program.extend([op(JGE, 0, 1, X32), refuse]);
    }
    search(&spans(recorded, plays), &mut program);
    program
}

/// Numbers from `first` to the next span's: what becomes of them.
struct Span {
    first: u32,
    rule: Rule,
}

/// All numbers there are, in as few spans as there can be: the kernel translates every instruction when a run begins.
fn spans(recorded: bool, plays: bool) -> Vec<Span> {
    let mut rows: Vec<&Row> = tables().collect();
    rows.sort_by_key(|row| row.nr);
    let mut spans: Vec<Span> = Vec::new();
    let mut add = |first, rule: Rule| {
        if !spans.last().is_some_and(|last| is_same(last.rule, rule)) {
            spans.push(Span { first, rule });
        }
    };
    let unknown = Rule::Refuse(libc::ENOSYS);
    let mut next = 0;
    for row in rows {
        let number = u32::try_from(row.nr).expect("system calls have small numbers");
        if number > next {
            add(next, unknown);
        }
        let seen = recorded && observed::is_look(row.nr) || plays && metadata::is_by_descriptor(row.nr);
        add(number, if seen { Rule::Ask } else { row.rule });
        next = number + 1;
    }
    add(next, unknown);
    spans
}

/// Whether two rules are the same to the kernel.
fn is_same(one: Rule, other: Rule) -> bool {
    match (one, other) {
        (Rule::When(..), _) | (_, Rule::When(..)) => one == other,
        _ => ret(one).k == ret(other).k,
    }
}

/// Finds the span of the number in the accumulator.
fn search(spans: &[Span], program: &mut Vec<Instruction>) {
    let [first, rest @ ..] = spans else { return };
    if rest.is_empty() {
        return program.extend(decide(first.rule));
    }
    let (below, above) = spans.split_at(spans.len() / 2);
    let from = above.first().map_or(0, |span| span.first);
    let at = program.len();
    program.push(op(JGE, 0, 0, from));
    search(below, program);
    let past = program.len() - at - 1;
    match u8::try_from(past) {
        Ok(past) => program[at].jt = past,
        Err(_) => {
            program[at].jf = 1;
            let far = u32::try_from(past).expect("a filter is shorter than 4096 instructions");
            program.insert(at + 1, op(JA, 0, 0, far));
        }
    }
    search(above, program);
}

fn decide(rule: Rule) -> Vec<Instruction> {
    let Rule::When(tests, otherwise) = rule else { return vec![ret(rule)] };
    let mut all: Vec<Instruction> = tests.iter().flat_map(|(test, rule)| when(*test, ret(*rule))).collect();
    all.extend(decide(*otherwise));
    all
}

/// Returns `then` where the test holds, and falls through to the next instruction where not.
fn when(test: Test, then: Instruction) -> Vec<Instruction> {
    let word = |value: u64| u32::try_from(value & 0xffff_ffff).expect("masked to 32 bits");
    match test {
        // A null pointer is null in both halves. Numbers are ints, of which the kernel takes the lower half.
        Test::Is(arg, 0) => {
            vec![low(arg), op(JEQ, 0, 3, 0), high(arg), op(JEQ, 0, 1, 0), then]
        }
        Test::Is(arg, value) => vec![low(arg), op(JEQ, 0, 1, word(value)), then],
        Test::Bits(arg, bits) => vec![low(arg), op(JSET, 0, 1, word(bits)), then],
        Test::Both(a, is, b, has) => {
            vec![low(a), op(JEQ, 0, 3, word(is)), low(b), op(JEQ, 0, 1, word(has)), then]
        }
        Test::From(a, is, b, least) => {
            vec![low(a), op(JEQ, 0, 3, word(is)), low(b), op(JGE, 0, 1, word(least)), then]
        }
        Test::TypeBut(arg, kind, but) => {
            let past = |left: usize| u8::try_from(left).expect("tests are short");
            let mut test = vec![low(arg), op(AND, 0, 0, 0xff00)];
            test.push(op(JEQ, 0, past(but.len() + 2), u32::from(kind) << 8));
            test.push(low(arg));
            for (n, known) in but.iter().enumerate() {
                test.push(op(JEQ, past(but.len() - n), 0, word(*known)));
            }
            test.push(then);
            test
        }
        Test::Type(arg, kind) => {
            vec![low(arg), op(AND, 0, 0, 0xff00), op(JEQ, 0, 1, u32::from(kind) << 8), then]
        }
        Test::Stream(protocol) => socket(libc::SOCK_STREAM, protocol, then),
        Test::Datagram(protocol) => socket(libc::SOCK_DGRAM, protocol, then),
    }
}

/// `socket(AF_INET | AF_INET6, kind | flags, 0 | protocol)`.
fn socket(kind: libc::c_int, protocol: u64, then: Instruction) -> Vec<Instruction> {
    vec![
        low(0),
        op(JEQ, 1, 0, libc::AF_INET.unsigned_abs()),
        op(JEQ, 0, 7, libc::AF_INET6.unsigned_abs()),
        low(1),
        op(AND, 0, 0, 0xf),
        op(JEQ, 0, 4, kind.unsigned_abs()),
        low(2),
        op(JEQ, 1, 0, 0),
        op(JEQ, 0, 1, u32::try_from(protocol).expect("protocols are small")),
        then,
    ]
}

fn ret(rule: Rule) -> Instruction {
    let value = match rule {
        Rule::Allow => libc::SECCOMP_RET_ALLOW,
        Rule::Ask | Rule::Forbid(_) => libc::SECCOMP_RET_USER_NOTIF,
        Rule::Refuse(errno) => libc::SECCOMP_RET_ERRNO | errno.unsigned_abs(),
        Rule::When(..) => unreachable!("tests are not nested"),
    };
    op(RET, 0, 0, value)
}

/// The rule that the filter comes to, given the registers: what the supervisor needs to tell `Ask` from `Forbid`.
pub(crate) fn ruling(rule: Rule, args: &[u64; 6]) -> Rule {
    let Rule::When(tests, otherwise) = rule else { return rule };
    let arg = |n: u8| args[usize::from(n)];
    let int = |n: u8| arg(n) & 0xffff_ffff;
    let inet = || matches!(i32::try_from(int(0)), Ok(libc::AF_INET | libc::AF_INET6));
    let plain = |kind: libc::c_int, protocol: u64| {
        inet() && int(1) & 0xf == u64::from(kind.unsigned_abs()) && (int(2) == 0 || int(2) == protocol)
    };
    let holds = |test: Test| match test {
        Test::Is(n, 0) => arg(n) == 0,
        Test::Is(n, value) => int(n) == value & 0xffff_ffff,
        Test::Bits(n, bits) => arg(n) & bits & 0xffff_ffff != 0,
        Test::Both(a, is, b, has) => int(a) == is && int(b) == has,
        Test::From(a, is, b, least) => int(a) == is && int(b) >= least,
        Test::Type(n, kind) => int(n) >> 8 & 0xff == u64::from(kind),
        Test::TypeBut(n, kind, but) => int(n) >> 8 & 0xff == u64::from(kind) && !but.contains(&int(n)),
        Test::Stream(protocol) => plain(libc::SOCK_STREAM, protocol),
        Test::Datagram(protocol) => plain(libc::SOCK_DGRAM, protocol),
    };
    tests.iter().find(|(test, _)| holds(*test)).map_or(*otherwise, |(_, rule)| *rule)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Runs the filter as the kernel does, for the instructions it uses.
    fn run(program: &[Instruction], nr: u32, arch: u32, args: &[u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(nr.to_le_bytes());
        data.extend(arch.to_le_bytes());
        data.extend([0; 8]);
        args.iter().for_each(|arg| data.extend(arg.to_le_bytes()));
        let (mut at, mut acc) = (0, 0u32);
        loop {
            let Instruction { code, jt, jf, k } = program[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { jt } else { jf });
            match code {
                LD_ABS => acc = u32::from_le_bytes(data[k as usize..][..4].try_into().unwrap()),
                AND => acc &= k,
                JEQ => at += jump(acc == k),
                JGE => at += jump(acc >= k),
                JSET => at += jump(acc & k != 0),
                JA => at += k as usize,
                RET => return k,
                _ => panic!("{code:#x}"),
            }
        }
    }

    #[test]
    fn other_entry_points_are_closed() {
        let program = assemble(false, false);
        let refused = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
        assert!(program.len() < 4096);
        assert_eq!(run(&program, 3, 0x4000_0003, &[0; 6]), refused, "32-bit");
        assert_eq!(run(&program, 0x4000_0000, ARCH, &[0; 6]), refused, "x32");
        assert_eq!(run(&program, 0xffff_ffff, ARCH, &[0; 6]), refused);
        assert_eq!(run(&program, 5000, ARCH, &[0; 6]), refused, "a call of the future");
    }

    #[test]
    fn high_bits_hide_nothing() {
        let program = assemble(false, false);
        let ask = libc::SECCOMP_RET_USER_NOTIF;
        let nr = |call: i64| u32::try_from(call).unwrap();
        // The kernel takes an int from the lower half: high bits must not make a namespace look harmless.
        let flags = 0xdead_0000_0000_0000 | 0x1000_0000;
        assert_eq!(run(&program, nr(libc::SYS_unshare), ARCH, &[flags, 0, 0, 0, 0, 0]), ask);
        assert_eq!(run(&program, nr(libc::SYS_ioctl), ARCH, &[0, 0xffff_ffff_0000_5412, 0, 0, 0, 0]), ask);
        // A pointer that is null in its lower half only is not null.
        assert_eq!(run(&program, nr(libc::SYS_sendto), ARCH, &[3, 1, 1, 0, 0x1_0000_0000, 16]), ask);
        assert_eq!(run(&program, nr(libc::SYS_sendto), ARCH, &[3, 1, 1, 0, 0, 0]), libc::SECCOMP_RET_ALLOW);
    }

    proptest! {
        /// The supervisor reads the table as the filter does, whatever the registers.
        #[test]
        fn filter_and_table_agree(which in any::<prop::sample::Index>(), args in prop::array::uniform6(
            prop_oneof![Just(0u64), 0u64..64, any::<u64>(), (0u32..32).prop_map(|bit| 1 << bit),
                Just(0x4008_6602), Just(0x5412), Just(0x5000_9401), Just(0x8912), Just(0x894c), Just(0x8010_8906)])) {
            let rows: Vec<&Row> = tables().collect();
            let row = rows[which.index(rows.len())];
            let expected = ret(ruling(row.rule, &args)).k;
            let nr = u32::try_from(row.nr).unwrap();
            prop_assert_eq!(run(&assemble(false, false), nr, ARCH, &args), expected, "{}", row.name);
        }
    }
}
