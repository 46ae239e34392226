//! Who a signal reaches, told from the number it is sent to: the same answer in every lane.

use failcore_model::SignalTarget;

use crate::tasks::{descends, parent_of, stat_field};

/// Field of /proc/PID/stat that holds the process group, counted from 0 after the name (proc_pid_stat(5)).
const GROUP: usize = 2;

/// Who gets a signal that `sender` sends to `number` (kill(2): zero and negative numbers mean groups); of a group, the
/// member farthest from the sender. `None` where nobody is there.
///
/// `in_run` says whether a process belongs to the run. What is true of a number can change before the signal is sent: a
/// caller that is told `None` sends nothing, since the number may be somebody else's by then.
pub fn receiver(number: i32, sender: u32, in_run: impl Fn(u32) -> bool) -> Option<SignalTarget> {
    let one = |pid: u32| {
        if pid == sender {
            SignalTarget::Own
        } else if !in_run(pid) {
            SignalTarget::Outside
        } else if descends(pid, sender) {
            SignalTarget::Child
        } else {
            SignalTarget::Run
        }
    };
    let group = match number {
        1.. => {
            let pid = number.unsigned_abs();
            // Asked afterwards: who ended meanwhile looks like an outsider.
            let target = one(pid);
            return parent_of(pid).map(|_| target);
        }
        // Everybody who may be signalled.
        -1 => return Some(SignalTarget::Outside),
        0 => stat_field(sender, GROUP),
        group => Some(group.unsigned_abs()),
    };
    let (Some(group), Ok(processes)) = (group, std::fs::read_dir("/proc")) else {
        return Some(SignalTarget::Outside);
    };
    let distance = |target: &SignalTarget| match target {
        SignalTarget::Own => 0,
        SignalTarget::Child => 1,
        SignalTarget::Run => 2,
        SignalTarget::Outside => 3,
    };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| stat_field(*pid, GROUP) == Some(group))
        .map(one)
        .max_by_key(distance)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_number_means_who_has_it_now() {
        let own = std::process::id();
        let mut child = Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let everyone = |_| true;
        assert_eq!(receiver(own.cast_signed(), own, everyone), Some(SignalTarget::Own));
        assert_eq!(receiver(pid, own, everyone), Some(SignalTarget::Child));
        assert_eq!(receiver(-pid, own, everyone), Some(SignalTarget::Child));
        assert_eq!(receiver(pid, child.id(), everyone), Some(SignalTarget::Own));
        assert_eq!(receiver(own.cast_signed(), child.id(), everyone), Some(SignalTarget::Run));
        assert_eq!(receiver(pid, own, |_| false), Some(SignalTarget::Outside));
        assert_eq!(receiver(-pid, own, |_| false), Some(SignalTarget::Outside));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(receiver(pid, own, everyone), None);
        assert_eq!(receiver(-pid, own, everyone), None);
    }

    #[test]
    fn a_group_is_as_far_away_as_its_farthest_member() {
        let own = std::process::id();
        let mut leader = Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
        let group = i32::try_from(leader.id()).unwrap();
        let mut member = Command::new("sleep").arg("60").process_group(group).spawn().unwrap();
        let outsider = member.id();
        assert_eq!(receiver(-group, own, |_| true), Some(SignalTarget::Child));
        assert_eq!(receiver(-group, own, |pid| pid != outsider), Some(SignalTarget::Outside));
        assert_eq!(receiver(0, leader.id(), |pid| pid != outsider), Some(SignalTarget::Outside));
        for child in [&mut leader, &mut member] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn everybody_is_outside() {
        assert_eq!(receiver(-1, std::process::id(), |_| true), Some(SignalTarget::Outside));
        assert_eq!(receiver(i32::MIN, std::process::id(), |_| true), None);
    }
}
