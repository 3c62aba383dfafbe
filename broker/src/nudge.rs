//! Interrupts the sleep of an executor's thread from outside.
//!
//! glommio 0.9.0 can go to sleep with tasks that are ready to run: `LocalExecutor::run` arms its preemption timer, then
//! runs its queues; if the timer is over before the first queue is looked at (the thread lost its CPU in between), it
//! takes "preempted" for "nothing to do" and sleeps until some event comes. A shard that serves has a timer of its own
//! (see `shard::run`) and so sleeps for some milliseconds; a shard that never ran has nothing that would wake it. A
//! signal makes the kernel end the wait, and glommio goes round its loop once more.

use std::os::unix::thread::{JoinHandleExt as _, RawPthread};
use std::thread::JoinHandle;

use nix::sys::pthread::pthread_kill;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Ignored by default: a process that has it from elsewhere is not hurt.
const SIGNAL: Signal = Signal::SIGURG;

extern "C" fn nothing(_: libc::c_int) {}

/// Lets the signal interrupt waits instead of being ignored. Once per process is enough; more do no harm.
#[expect(unsafe_code, reason = "a signal handler")]
pub(crate) fn prepare() -> std::io::Result<()> {
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing, so it is safe whatever it interrupts.
    unsafe { sigaction(SIGNAL, &action) }?;
    Ok(())
}

/// A thread that can be nudged.
#[derive(Debug)]
pub(crate) struct Nudge<'a> {
    thread: RawPthread,
    /// The thread's number is good as long as it is not joined.
    _handle: std::marker::PhantomData<&'a JoinHandle<()>>,
}

impl<'a> Nudge<'a> {
    pub(crate) fn new(handle: &'a JoinHandle<()>) -> Self {
        Self { thread: handle.as_pthread_t(), _handle: std::marker::PhantomData }
    }

    /// Ends a wait that the thread is in.
    pub(crate) fn nudge(&self) {
        let _ = pthread_kill(self.thread, SIGNAL); // it may have ended
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_wait_in_the_kernel_ends() {
        prepare().unwrap();
        let (begun, ready) = mpsc::channel();
        let sleeper = std::thread::spawn(move || {
            begun.send(()).unwrap();
            let mut nothing = [];
            // Unlike a sleep of the standard library, poll is not begun again after a signal.
            let _ = nix::poll::poll(&mut nothing, nix::poll::PollTimeout::from(60_000_u16));
        });
        ready.recv().unwrap();
        let since = Instant::now();
        while !sleeper.is_finished() {
            assert!(since.elapsed() < Duration::from_secs(30), "the signal does not interrupt");
            Nudge::new(&sleeper).nudge();
            std::thread::sleep(Duration::from_millis(5));
        }
        sleeper.join().unwrap();
    }
}
