//! From a policy to what the kernel itself holds underneath the supervisor.
//!
//! The supervisor asks `decide` for every mediated call, so that denies are exact. Landlock is a second wall behind
//! it, made of grants alone: wider than the policy where it cannot say the same, never narrower. The threads that
//! act for the agent live in the domain of [`Plan::files`]; the agent itself, for which the kernel performs hardly
//! anything but exec, in a domain within that, which holds no file right but running the images.

use std::collections::{BTreeMap, BTreeSet};

use failcore_model::{AbsPath, Coverage, Hold, Lane, Rights, Verb, VerbCoverage};
use failcore_policy::{Capability, Effect, Mode, Object, Over, Part, Pattern, PolicySet, Reads, Rule, Way};

use crate::features::Features;
use crate::open::MULTIPLEXER;

/// Ports that a plan lists one by one; with more, Landlock does not hold them.
const MOST_PORTS: u32 = 512;

/// What the kernel holds underneath.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Rights below each path; nothing is confined where absent.
    pub files: Option<BTreeMap<AbsPath, Rights>>,
    /// Images that may run.
    pub images: BTreeSet<Images>,
    /// Directories below which unix sockets may be made.
    pub sockets: BTreeSet<AbsPath>,
    /// Ports that TCP may connect to; any where absent.
    pub connect: Option<BTreeSet<u16>>,
    /// Ports that TCP may be bound to; any where absent.
    pub bind: Option<BTreeSet<u16>>,
    /// Whether signals and abstract sockets end at the run's edge.
    pub scoped: bool,
    /// Capabilities that are kept.
    pub keep: BTreeSet<Capability>,
}

/// Images of one exec grant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Images {
    /// This file.
    File(AbsPath),
    /// The files in this directory.
    In(AbsPath),
    /// Every file below this directory.
    Below(AbsPath),
}

/// What the kernel can hold of a policy, and what that comes to together with the supervisor. Pure.
pub fn lower(policy: &PolicySet, features: &Features) -> (Plan, Coverage) {
    let mut plan = Plan { keep: policy.capabilities(), ..Plan::default() };
    let audit = policy.mode() == Mode::Audit;
    if features.landlock > 0 && !audit {
        let permits = || policy.rules().filter(|rule| rule.effect == Effect::Permit && rule.tool.is_none());
        plan.files = Some(files(permits()));
        plan.images = permits().flat_map(|rule| &rule.objects).filter_map(images).collect();
        plan.sockets = permits().flat_map(|rule| &rule.objects).filter_map(sockets).collect();
        if features.landlock >= 4 {
            plan.connect = ports(permits(), Way::Out);
            plan.bind = ports(permits(), Way::In);
        }
        plan.scoped = features.landlock >= 6;
    }
    let coverage = coverage(policy, features, &plan);
    (plan, coverage)
}

fn files<'a>(permits: impl Iterator<Item = &'a Rule>) -> BTreeMap<AbsPath, Rights> {
    let mut found: BTreeMap<AbsPath, Rights> = BTreeMap::new();
    for object in permits.flat_map(|rule| &rule.objects) {
        let Object::File { path, rights } = object else { continue };
        let tree = prefix(path);
        // Who may make terminals opens their other ends, which the supervisor tells from those of others.
        if tree.as_bytes() == MULTIPLEXER
            && let Ok(ends) = AbsPath::new(b"/dev/pts")
        {
            *found.entry(ends).or_default() |= *rights;
        }
        *found.entry(tree).or_default() |= *rights;
    }
    found
}

/// The directory, or the very file, that holds whatever the pattern matches.
fn prefix(pattern: &Pattern) -> AbsPath {
    let literal = pattern.parts().iter().map_while(|part| match part {
        Part::Literal(name) => Some(name),
        _ => None,
    });
    literal.fold(AbsPath::root(), |path, name| path.join(name).unwrap_or(path))
}

fn images(object: &Object) -> Option<Images> {
    let Object::Exec { image, .. } = object else { return None };
    Some(match (image.literal(), image.parts()) {
        (Some(path), _) => Images::File(path),
        // Only the last component is open.
        (None, [above @ .., Part::Glob(_)]) if above.iter().all(|part| matches!(part, Part::Literal(_))) => {
            Images::In(prefix(image))
        }
        (None, _) => Images::Below(prefix(image)),
    })
}

fn sockets(object: &Object) -> Option<AbsPath> {
    let Object::UnixPath { path, way: Way::In | Way::Both } = object else { return None };
    match path.literal() {
        Some(path) => path.parent().or(Some(path)),
        None => Some(prefix(path)),
    }
}

fn ports<'a>(permits: impl Iterator<Item = &'a Rule>, way: Way) -> Option<BTreeSet<u16>> {
    let mut found = BTreeSet::new();
    for object in permits.flat_map(|rule| &rule.objects) {
        let Object::Net { over: Over::Tcp | Over::Any, ports: (first, last), way: of, .. } = object else {
            continue;
        };
        if *of != way && *of != Way::Both {
            continue;
        }
        if u32::from(*last).saturating_sub(u32::from(*first)) >= MOST_PORTS {
            return None;
        }
        found.extend(*first..=*last);
    }
    (found.len() <= MOST_PORTS as usize).then_some(found)
}

fn coverage(policy: &PolicySet, features: &Features, plan: &Plan) -> Coverage {
    const SUPERVISOR: &str = "supervisor";
    const BOTH: &str = "supervisor, Landlock underneath";
    let landlock = plan.files.is_some();
    let verbs = Verb::ALL.iter().map(|verb| {
        let (hold, by) = match verb {
            // Of truncation by name it knows since ABI 3.
            Verb::FsModify if landlock && features.landlock < 3 => (Hold::Binding, SUPERVISOR),
            Verb::FsOpen
            | Verb::FsRead
            | Verb::FsCreate
            | Verb::FsModify
            | Verb::FsDelete
            | Verb::FsRename
            | Verb::FsLink
            | Verb::FsSymlink
                if landlock =>
            {
                (Hold::Binding, BOTH)
            }
            Verb::ProcessExec if landlock => {
                (Hold::Binding, "Landlock, supervisor, and the running image compared")
            }
            Verb::ProcessExec => (Hold::Binding, "supervisor, and the running image compared"),
            Verb::NetConnect if plan.connect.is_some() => (Hold::Binding, BOTH),
            Verb::NetBind if plan.bind.is_some() => (Hold::Binding, BOTH),
            Verb::ProcessSignal if plan.scoped => (Hold::Binding, BOTH),
            Verb::FsOpen
            | Verb::FsRead
            | Verb::FsCreate
            | Verb::FsModify
            | Verb::FsDelete
            | Verb::FsAttr
            | Verb::FsRename
            | Verb::FsLink
            | Verb::FsSymlink
            | Verb::NetConnect
            | Verb::NetSend
            | Verb::NetBind
            | Verb::NetListen
            | Verb::NetSocket
            | Verb::IpcConnect
            | Verb::ProcessSignal
            | Verb::ProcessTrace
            | Verb::ProcessLimit
            | Verb::KernelCall
            | Verb::Unmapped => (Hold::Binding, SUPERVISOR),
            // What is not passed is not there, and what other processes have is closed to the run.
            Verb::EnvRead => (Hold::Binding, "environment chosen when the program starts"),
            Verb::NetResolve | Verb::NetHttp | Verb::NativeLoad => (Hold::None, "nothing"),
        };
        VerbCoverage { verb: *verb, hold, by: by.into() }
    });
    let mut notes: Vec<String> = NOT_HELD.iter().map(|note| (*note).into()).collect();
    notes.push(if plan.keep.is_empty() {
        "no capabilities are kept: to a program of root, files of others are as closed as to anybody".into()
    } else {
        let kept: Vec<&str> = plan.keep.iter().map(|one| one.as_str()).collect();
        format!("capabilities kept: {}", kept.join(", "))
    });
    if policy.mode() == Mode::Audit {
        notes.push("audit mode: what the policy refuses is recorded and goes ahead".into());
    } else if features.landlock == 0 {
        notes.push("this kernel has no Landlock: the supervisor holds alone, and a thread that changes the path of \
                    an exec after it was judged can start another image for the moment until it is found and ended"
            .into());
    } else if features.landlock < 2 {
        notes.push("this kernel's Landlock lets no file be moved between directories".into());
    }
    if plan.images.iter().any(|images| matches!(images, Images::Below(_))) {
        notes.push("programs may start by a pattern that is open before its last part, whatever their interpreters are: Landlock underneath lets every \
                    file be read and run then, and the supervisor holds that alone"
            .into());
    }
    if policy.reads() == Reads::Advisory {
        notes.push(
            "`reads = \"advisory\"` is not used: every read is decided and recorded all the same".into(),
        );
    }
    if !features.killable {
        notes.push("before Linux 5.19 a signal with a handler can interrupt a call that was done and recorded already".into());
    }
    Coverage { lane: Lane::Kernel, trace: Hold::Binding, verbs: verbs.collect(), notes }
}

/// What the kernel lane does not hold.
const NOT_HELD: &[&str] = &[
    "stat, access, readlink and chdir are not mediated: existence and metadata stay visible",
    "another thread can change an exec's path or arguments after they were judged: what is not granted is ended before its first \
     call that asks, and may do until then what asks nobody",
    "an exec rule governs which image starts, not which code runs in it: files that may be read may be mapped",
    "host names are judged by the addresses they were pinned to: a direct grant reaches whatever host shares the address, \
     unless it is carried",
    "open descriptors and connections outlive a grant that ends, until the run stops",
    "hard links made before the run to files that only a glob denies, or that lie in a denied directory, are not held",
];

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use failcore_model::{Action, Context, Endpoint, FileRef, Request, Subject, Text, Transport, UnixAddr};
    use failcore_policy::Environment;
    use proptest::prelude::*;

    use super::*;

    fn policy(text: &str) -> PolicySet {
        let env = Environment { path: Vec::new(), ..Environment::default() };
        let dir = AbsPath::new(b"/base").unwrap();
        PolicySet::parse("test", &format!("version = 1\n{text}"), &dir, &env).unwrap()
    }

    fn features(landlock: u32) -> Features {
        Features { landlock, notify: true, killable: true }
    }

    fn path(text: &str) -> AbsPath {
        AbsPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn grants_become_trees() {
        let policy = policy(
            "[fs]\nread = [\"/data\", \"/logs/*.txt\"]\nwrite = [\"/work\"]\ndeny = [\"/work/.git\"]\n\
             [process]\nexec = [\"/usr/bin/git status\", \"/opt/*\", \"/srv/**/tool\"]\n\
             [net]\nconnect = [\"api.example.com:443\", \"udp:8.8.8.8:53\"]\nlisten = [\"127.0.0.1:0\", \"unix:/run/x/*\"]",
        );
        let (plan, _) = lower(&policy, &features(7));
        let files = plan.files.unwrap();
        assert_eq!(files[&path("/data")], Rights::READ);
        assert_eq!(files[&path("/logs")], Rights::READ);
        assert_eq!(files[&path("/work")], Rights::WRITE);
        let images =
            [Images::File(path("/usr/bin/git")), Images::In(path("/opt")), Images::Below(path("/srv"))];
        assert_eq!(plan.images, BTreeSet::from(images));
        assert_eq!(plan.connect, Some(BTreeSet::from([443])));
        assert_eq!(plan.bind, Some(BTreeSet::from([0])));
        assert_eq!(plan.sockets, BTreeSet::from([path("/run/x")]));
        assert!(plan.scoped);
    }

    #[test]
    fn each_abi_holds_what_it_can() {
        let policy = policy("[fs]\nread = [\"/data\"]\n[net]\nconnect = [\"api.example.com:443\"]");
        for abi in 0..=12 {
            let (plan, coverage) = lower(&policy, &features(abi));
            assert_eq!(plan.files.is_some(), abi >= 1, "{abi}");
            assert_eq!(plan.connect.is_some(), abi >= 4, "{abi}");
            assert_eq!(plan.scoped, abi >= 6, "{abi}");
            let by = |verb| coverage.verbs.iter().find(|held| held.verb == verb).unwrap();
            assert_eq!(by(Verb::FsOpen).by.contains("Landlock"), abi >= 1, "{abi}");
            assert_eq!(by(Verb::FsOpen).hold, Hold::Binding);
            assert_eq!(by(Verb::FsModify).by.contains("Landlock"), abi >= 3, "{abi}");
            assert_eq!(by(Verb::NetConnect).by.contains("Landlock"), abi >= 4, "{abi}");
            assert_eq!(by(Verb::NetBind).by.contains("Landlock"), abi >= 4, "{abi}");
            assert_eq!(by(Verb::ProcessSignal).by.contains("Landlock"), abi >= 6, "{abi}");
            let says = |words: &str| coverage.notes.iter().any(|note| note.contains(words));
            assert_eq!(says("no Landlock"), abi == 0, "{abi}");
            assert_eq!(says("moved between directories"), abi == 1, "{abi}");
        }
    }

    #[test]
    fn what_is_wider_than_it_looks_is_said() {
        let notes = |text, features| lower(&policy(text), &features).1.notes.join("\n");
        let (any, one) = ("[process]\nexec = [\"/usr/lib/gcc/**\"]", "[process]\nexec = [\"/usr/bin/*\"]");
        assert!(
            notes(any, features(7)).contains("open before its last part")
                && !notes(one, features(7)).contains("open before its last part")
        );
        let old = Features { killable: false, ..features(7) };
        assert!(notes(one, old).contains("5.19") && !notes(one, features(7)).contains("5.19"));
    }

    #[test]
    fn any_port_is_not_listed_and_audit_confines_nothing() {
        let (plan, _) = lower(&policy("[net]\nconnect = [\"api.example.com:*\"]"), &features(7));
        assert_eq!(plan.connect, None);
        let (plan, coverage) = lower(&policy("mode = \"audit\"\n[fs]\nread = [\"/data\"]"), &features(7));
        assert_eq!(plan, Plan::default());
        assert!(coverage.notes.iter().any(|note| note.contains("audit")));
    }

    fn decided(policy: &PolicySet, action: Action) -> bool {
        policy
            .decide(&Request { action, subject: Subject::default(), context: Context::default() })
            .is_allow()
    }

    fn allowed(policy: &PolicySet, at: &AbsPath, rights: Rights) -> bool {
        decided(policy, Action::Open { file: FileRef::at(at.clone()), rights })
    }

    fn exec(at: &AbsPath) -> Action {
        Action::Exec { image: FileRef::at(at.clone()), argv: vec![Text::from(at.as_bytes())] }
    }

    fn bind(at: &AbsPath) -> Action {
        Action::Bind(Endpoint::Unix(UnixAddr::Path(FileRef::at(at.clone()))))
    }

    fn tcp(port: u16) -> Endpoint {
        Endpoint::Inet { transport: Transport::Tcp, addr: SocketAddr::from(([10, 0, 0, 1], port)) }
    }

    /// Whether Landlock underneath lets a file be used so.
    fn lets(plan: &Plan, at: &AbsPath, rights: Rights) -> bool {
        plan.files.as_ref().is_none_or(|files| {
            let trees = files.iter().filter(|(tree, _)| at.is_within(tree));
            trees.fold(Rights::empty(), |all, (_, rights)| all | *rights).contains(rights)
        })
    }

    /// Whether it lets an image run. What is below a directory of [`Images::Below`] is the least that it lets run then.
    fn runs(plan: &Plan, at: &AbsPath) -> bool {
        plan.files.is_none()
            || plan.images.iter().any(|images| match images {
                Images::File(path) => at == path,
                Images::In(dir) => at.parent().as_ref() == Some(dir),
                Images::Below(dir) => at.is_within(dir),
            })
    }

    /// Whether it lets a unix socket be made, which takes the right to in the directory.
    fn makes(plan: &Plan, at: &AbsPath) -> bool {
        let dir = at.parent().unwrap_or(AbsPath::root());
        lets(plan, &dir, Rights::CREATE) || plan.sockets.iter().any(|tree| dir.is_within(tree))
    }

    const ONE: [Rights; 4] = [Rights::READ, Rights::MODIFY, Rights::CREATE, Rights::DELETE];

    proptest! {
        /// Landlock underneath never takes away what the policy grants, and what it lets through beyond that is said to
        /// be the supervisor's to hold.
        #[test]
        fn the_wall_is_never_narrower_than_the_policy_and_where_wider_not_alone(
            read in prop::collection::vec("(/(a|b|\\*|\\*\\*)){1,3}", 0..4),
            write in prop::collection::vec("(/(a|b|c\\*)){1,3}", 0..3),
            deny in prop::collection::vec("(/(a|b)){1,3}", 0..2),
            at in "(/(a|b|cc)){1,4}",
            rights in prop::sample::select(&ONE[..]),
            abi in 0..10_u32,
        ) {
            let policy = policy(&format!("[fs]\nread = {read:?}\nwrite = {write:?}\ndeny = {deny:?}"));
            let (plan, coverage) = lower(&policy, &features(abi));
            let at = path(&at);
            match (allowed(&policy, &at, rights), lets(&plan, &at, rights)) {
                (true, lets) => prop_assert!(lets),
                (false, false) => {}
                (false, true) => for held in coverage.verbs.iter().filter(|held| held.verb == Verb::FsOpen) {
                    prop_assert!(held.by.contains("supervisor") && held.hold == Hold::Binding);
                },
            }
        }

        /// Where a policy grants trees and nothing but trees, Landlock holds it exactly.
        #[test]
        fn where_trees_are_granted_the_wall_is_the_policy(
            read in prop::collection::vec("(/(a|b)){1,3}", 0..4),
            write in prop::collection::vec("(/(a|b)){1,3}", 0..3),
            at in "(/(a|b)){1,4}",
            rights in prop::sample::select(&ONE[..]),
        ) {
            let policy = policy(&format!("[fs]\nread = {read:?}\nwrite = {write:?}"));
            let (plan, _) = lower(&policy, &features(7));
            let at = path(&at);
            prop_assert_eq!(lets(&plan, &at, rights), allowed(&policy, &at, rights));
        }

        /// No port is open underneath to which the policy grants no address.
        #[test]
        fn ports_are_those_of_the_grants(
            granted in prop::collection::btree_set(1..6_u16, 0..4),
            asked in 1..6_u16,
        ) {
            let connect: Vec<String> = granted.iter().map(|port| format!("10.0.0.1:{port}")).collect();
            let policy = policy(&format!("[net]\nconnect = {connect:?}"));
            let (plan, _) = lower(&policy, &features(7));
            let decided = decided(&policy, Action::Connect(tcp(asked)));
            prop_assert_eq!(plan.connect.unwrap().contains(&asked), decided);
        }

        /// Whatever image the policy lets run, Landlock does; where neither directories nor trees are granted, no other.
        /// Where it may be more than what lies in a directory that is named, a note says so.
        #[test]
        fn no_image_is_missing_and_where_trees_run_it_is_said(
            files in prop::collection::vec("(/(a|b)){1,3}", 0..3),
            globs in prop::collection::vec("(/(a|b)){0,2}/(\\*|c\\*|\\{a,cc\\})", 0..2),
            trees in prop::collection::vec("(/(a|b)){0,2}(/\\*\\*|/\\*\\*/a|/\\*/b|/c\\*/\\*)", 0..2),
            deny in prop::collection::vec("(/(a|b)){1,3}", 0..2),
            at in "(/(a|b|cc)){1,4}",
            abi in 1..=12_u32,
        ) {
            let all: Vec<&String> = files.iter().chain(&globs).chain(&trees).collect();
            let policy = policy(&format!("[fs]\ndeny = {deny:?}\n[process]\nexec = {all:?}"));
            let (plan, coverage) = lower(&policy, &features(abi));
            let at = path(&at);
            let (decided, runs) = (decided(&policy, exec(&at)), runs(&plan, &at));
            prop_assert!(runs || !decided, "{:?} does not let {at} run", plan.images);
            if globs.is_empty() && trees.is_empty() && deny.is_empty() {
                prop_assert_eq!(runs, decided);
            }
            // A directory's own files run, and no others, where that is all that is open.
            if trees.is_empty() && runs && !decided && deny.is_empty() {
                let dir = at.parent().unwrap();
                prop_assert!(plan.images.contains(&Images::In(dir)));
            }
            let said = coverage.notes.iter().any(|note| note.contains("open before its last part"));
            prop_assert_eq!(said, !trees.is_empty());
            let held = coverage.verbs.iter().find(|held| held.verb == Verb::ProcessExec).unwrap();
            prop_assert!(held.by.contains("supervisor") && held.hold == Hold::Binding);
        }

        /// Wherever the policy lets a unix socket be bound, Landlock lets it be made.
        #[test]
        fn no_directory_is_missing_in_which_a_unix_socket_may_be_bound(
            listen in prop::collection::vec("unix:(/(a|b|\\*|\\*\\*|c\\*)){1,3}", 0..3),
            connect in prop::collection::vec("unix:(/(a|b|\\*\\*)){1,3}", 0..2),
            write in prop::collection::vec("(/(a|b|c\\*)){1,3}", 0..2),
            deny in prop::collection::vec("(/(a|b)){1,3}", 0..2),
            at in "(/(a|b|cc)){1,4}",
            abi in 1..=12_u32,
        ) {
            let policy = policy(&format!(
                "[fs]\nwrite = {write:?}\ndeny = {deny:?}\n[net]\nconnect = {connect:?}\nlisten = {listen:?}"
            ));
            let (plan, coverage) = lower(&policy, &features(abi));
            let at = path(&at);
            let (decided, makes) = (decided(&policy, bind(&at)), makes(&plan, &at));
            prop_assert!(makes || !decided, "{:?} does not let {at} be made", plan.sockets);
            if listen.is_empty() {
                prop_assert!(plan.sockets.is_empty() && !decided);
            }
            let held = coverage.verbs.iter().find(|held| held.verb == Verb::NetBind).unwrap();
            prop_assert!(held.by.contains("supervisor") && held.hold == Hold::Binding);
        }

        /// Whatever Landlock can hold on a kernel, of every kind: what is granted goes through it; what is refused and goes
        /// through is said to be the supervisor's to hold; and where it stops something, it is said to be there.
        #[test]
        fn on_every_kernel_what_goes_through_the_wall_is_granted_or_the_supervisors(
            fs in prop::collection::vec("(/(a|b|c\\*|\\*\\*)){1,3}", 3),
            run in prop::collection::vec("(/(a|b|\\*|\\*\\*)){1,3}", 0..2),
            ports in prop::collection::vec("(udp:)?10\\.0\\.0\\.[12]:([1-4]|[1-2]-[3-4]|1-600)", 0..3),
            local in prop::collection::vec("(udp:)?10\\.0\\.0\\.1:([1-4]|[1-2]-[3-4])|unix:(/(a|b|c\\*)){1,3}", 0..3),
            audit: bool,
            at in "(/(a|b|cc)){1,4}",
            rights in prop::sample::select(&ONE[..]),
            port in 1..6_u16,
            abi in 0..=12_u32,
        ) {
            let [read, write, deny] = &fs[..] else { unreachable!() };
            let policy = policy(&format!(
                "mode = {:?}\n[fs]\nread = [{read:?}]\nwrite = [{write:?}]\ndeny = [{deny:?}]\n\
                 [process]\nexec = {run:?}\n[net]\nconnect = {ports:?}\nlisten = {local:?}",
                if audit { "audit" } else { "enforce" },
            ));
            let (plan, coverage) = lower(&policy, &features(abi));
            let at = path(&at);
            let open = Action::Open { file: FileRef::at(at.clone()), rights };
            let reads = rights == Rights::READ && runs(&plan, &at);
            let (none, one) = (plan.files.is_none(), |ports: &Option<BTreeSet<u16>>| {
                ports.as_ref().is_none_or(|ports| ports.contains(&port))
            });
            let tried = [
                (open, lets(&plan, &at, rights) || reads),
                (exec(&at), runs(&plan, &at)),
                (Action::Connect(tcp(port)), one(&plan.connect)),
                (Action::Bind(tcp(port)), one(&plan.bind)),
                (bind(&at), none || makes(&plan, &at)),
                // It knows no connecting to names.
                (Action::IpcConnect(UnixAddr::Path(FileRef::at(at.clone()))), true),
            ];
            for (action, goes_through) in tried {
                let unix = matches!(action, Action::Bind(Endpoint::Unix(_)));
                let held = coverage.verbs.iter().find(|held| held.verb == action.verb()).unwrap();
                match (decided(&policy, action), goes_through) {
                    (true, goes_through) => prop_assert!(goes_through, "{held:?}: {plan:?}"),
                    (false, true) => prop_assert!(held.by.contains("supervisor") && held.hold == Hold::Binding),
                    // Of unix sockets it knows before it knows of ports.
                    (false, false) => prop_assert!(held.by.contains("Landlock") || unix, "{held:?}"),
                }
            }
            if audit {
                prop_assert_eq!(plan, Plan { keep: policy.capabilities(), ..Plan::default() });
            }
        }
    }
}
