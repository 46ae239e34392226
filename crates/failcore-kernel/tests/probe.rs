//! Probing the kernel, in a process of its own: descriptors are counted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failcore_kernel::probe::{cgroup_bpf, landlock_abi, lsm_bpf, seccomp_notify, user_namespaces};

/// A probe either works or gives a real errno; it never leaves the caller changed.
#[test]
fn probes_answer_and_leave_no_trace() {
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let user = std::fs::read_link("/proc/self/ns/user").unwrap();
    let before = descriptors();
    for probe in [seccomp_notify, user_namespaces, cgroup_bpf, lsm_bpf] {
        if let Err(error) = probe() {
            assert_ne!(error.raw_os_error(), Some(libc::EFAULT), "the probe itself is malformed");
        }
    }
    if let Ok(abi) = landlock_abi() {
        assert!((1..100).contains(&abi), "{abi}");
    }
    assert_eq!(descriptors(), before);
    assert_eq!(std::fs::read_link("/proc/self/ns/user").unwrap(), user);
}
