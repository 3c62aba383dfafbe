//! `equeue doctor`: whether a broker can run here, and what to do where it cannot.
//!
//! Each check really tries what a broker will do - sets up a ring, writes with `O_DIRECT`, syncs, binds - and gives
//! findings. A finding that is not `ok` always carries a remedy.

mod cores;
mod disk;
mod io_uring;
mod limits;
mod ports;

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Serialize;

use crate::failure::Told;
use crate::output::{self, Format, Output};

/// What to look at.
#[derive(clap::Args, Debug)]
pub(crate) struct DoctorArgs {
    /// The data directory that a broker is to use; it is not created
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The addresses that servers are to listen on
    #[arg(long, value_name = "ADDR", num_args = 1.., value_delimiter = ',',
          default_values = ["127.0.0.1:9493", "127.0.0.1:9494", "127.0.0.1:9495"])]
    listen: Vec<SocketAddr>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// As it should be.
    Ok,
    /// A broker runs, but slower, smaller or less safely than it could.
    Warning,
    /// A broker does not start.
    Blocking,
}

/// What one check found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finding {
    /// What was looked at.
    pub(crate) check: &'static str,
    /// How bad it is.
    pub(crate) severity: Severity,
    /// What was found, with values.
    pub(crate) found: String,
    /// What to do; none when it is fine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, severity: Severity::Ok, found: found.into(), remedy: None }
    }

    fn warning(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, severity: Severity::Warning, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn blocking(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, severity: Severity::Blocking, found: found.into(), remedy: Some(remedy.into()) }
    }
}

#[derive(Serialize)]
struct Report {
    healthy: bool,
    findings: Vec<Finding>,
}

/// Runs every check.
///
/// # Errors
/// [`Told`] when a finding is blocking.
pub(crate) fn run(args: &DoctorArgs, format: Format) -> anyhow::Result<()> {
    let data = args.data.clone().unwrap_or_else(crate::serve::default_data_dir);
    let mut findings = vec![io_uring::kernel_version(), io_uring::finding()];
    findings.extend(limits::findings());
    findings.extend(cores::findings());
    findings.extend(disk::findings(&data));
    findings.extend(args.listen.iter().map(|address| ports::finding(*address)));

    let healthy = findings.iter().all(|finding| finding.severity < Severity::Blocking);
    let report = Report { healthy, findings };
    let mut output = Output::stdout();
    match format {
        Format::Json => output.json(&report)?,
        Format::Table => print(&report, &mut output)?,
    }
    output.flush()?;
    if healthy { Ok(()) } else { Err(Told.into()) }
}

fn print(report: &Report, output: &mut Output) -> anyhow::Result<()> {
    let coloured = output::stdout_is_coloured();
    let width = report.findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    for finding in &report.findings {
        let (mark, colour) = match finding.severity {
            Severity::Ok => ("ok      ", "32"),
            Severity::Warning => ("warning ", "33"),
            Severity::Blocking => ("blocking", "31"),
        };
        let mark = if coloured { format!("\x1b[{colour}m{mark}\x1b[0m") } else { mark.to_owned() };
        output.line(format!(
            "{mark}  {check:width$}  {found}",
            check = finding.check,
            found = finding.found
        ))?;
        if let Some(remedy) = &finding.remedy {
            output.line(format!("{:indent$}-> {remedy}", "", indent = 12 + width))?;
        }
    }
    let blocking = report.findings.iter().filter(|finding| finding.severity == Severity::Blocking).count();
    let warnings = report.findings.iter().filter(|finding| finding.severity == Severity::Warning).count();
    output.line(match (blocking, warnings) {
        (0, 0) => "A broker can run here.".to_owned(),
        (0, n) => format!("A broker can run here; {n} warning(s)."),
        (n, _) => format!("A broker cannot run here: {n} blocking finding(s)."),
    })
}
