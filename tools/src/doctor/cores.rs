//! CPUs: how many, and which of them this process may use.

use std::fs;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use super::Finding;

/// The CPUs that this process may run on, and the quota of its control group.
pub(super) fn findings() -> Vec<Finding> {
    let mut findings = Vec::new();
    match sched_getaffinity(Pid::from_raw(0)) {
        Ok(allowed) => {
            let cpus: Vec<usize> =
                (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).collect();
            findings.push(judge_cpus(&cpus));
        }
        Err(error) => findings.push(Finding::warning(
            "cores",
            format!("the CPUs of this process cannot be read: {error}"),
            "leave `pin` empty: shards then run where the scheduler puts them",
        )),
    }
    if let Some(quota) = fs::read_to_string("/sys/fs/cgroup/cpu.max").ok().as_deref().and_then(quota_of)
        && quota < 2.0
    {
        findings.push(Finding::warning(
            "cpu quota",
            format!("{quota:.2} cores by the control group"),
            "give the container two cores or more: a throttled shard holds up every queue it serves",
        ));
    }
    findings
}

fn judge_cpus(cpus: &[usize]) -> Finding {
    let list = cpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let found = format!("{} usable (CPU {list})", cpus.len());
    if cpus.len() < 2 {
        let remedy = "use two cores or more: the kernel's I/O workers need one beside the shard";
        Finding::warning("cores", found, remedy)
    } else {
        let shards = cpus.len() - 1;
        Finding::ok("cores", format!("{found}; {shards} shard(s) by default"))
    }
}

/// `"150000 100000"` is 1.5 cores; `"max 100000"` no quota.
fn quota_of(cpu_max: &str) -> Option<f64> {
    let mut words = cpu_max.split_whitespace();
    let quota: f64 = words.next()?.parse().ok()?;
    let period: f64 = words.next()?.parse().ok()?;
    (period > 0.0).then(|| quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_read() {
        assert_eq!(quota_of("150000 100000\n"), Some(1.5));
        assert_eq!(quota_of("max 100000\n"), None);
        assert_eq!(quota_of(""), None);
    }
}
