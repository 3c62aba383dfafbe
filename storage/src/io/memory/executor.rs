//! A single-threaded executor whose every run with the same seed is the same.
//!
//! Which of the ready tasks goes next is drawn from the seed. Time is virtual: each step takes a microsecond, and
//! when no task is ready it jumps to the next event.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Ids of tasks that can go on. Wakers must be `Send`, hence the lock; nobody else ever holds it.
type Ready = Arc<Mutex<Vec<u64>>>;

struct TaskWaker {
    id: u64,
    ready: Ready,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if !ready.contains(&self.id) {
            ready.push(self.id);
        }
    }
}

struct State {
    tasks: BTreeMap<u64, Task>,
    next_id: u64,
    now: Duration,
    /// When what wakes whom; the number keeps events of one moment apart.
    events: BTreeMap<(Duration, u64), Waker>,
    chance: StdRng,
}

/// Why [`Executor::run`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The caller's condition.
    Asked,
    /// No task can go on, and no event is to come.
    Stuck,
}

pub(super) struct Executor {
    state: RefCell<State>,
    ready: Ready,
}

impl Executor {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            state: RefCell::new(State {
                tasks: BTreeMap::new(),
                next_id: 0,
                now: Duration::ZERO,
                events: BTreeMap::new(),
                chance: StdRng::seed_from_u64(seed),
            }),
            ready: Ready::default(),
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.state.borrow().now
    }

    /// A number from the seed, below `end`.
    pub(super) fn draw(&self, end: u64) -> u64 {
        self.state.borrow_mut().chance.random_range(0..end)
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let mut state = self.state.borrow_mut();
        let id = state.next_id;
        state.next_id += 1;
        state.tasks.insert(id, Box::pin(task));
        drop(state);
        self.waker(id).wake();
    }

    fn waker(&self, id: u64) -> Waker {
        Waker::from(Arc::new(TaskWaker { id, ready: Arc::clone(&self.ready) }))
    }

    /// Resolves once `duration` has gone by.
    pub(super) async fn sleep(&self, duration: Duration) {
        let end = self.now() + duration;
        std::future::poll_fn(|context| {
            let mut state = self.state.borrow_mut();
            if state.now >= end {
                return Poll::Ready(());
            }
            let number = state.next_id;
            state.next_id += 1;
            state.events.insert((end, number), context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Runs tasks until `stop` says so or nothing can go on.
    pub(super) fn run(&self, stop: impl Fn() -> bool) -> Stop {
        while !stop() {
            let Some(id) = self.next_ready() else {
                if self.jump() {
                    continue;
                }
                return Stop::Stuck;
            };
            let task = self.state.borrow_mut().tasks.remove(&id);
            if let Some(mut task) = task
                && task.as_mut().poll(&mut Context::from_waker(&self.waker(id))).is_pending()
            {
                self.state.borrow_mut().tasks.insert(id, task);
            }
            self.pass(Duration::from_micros(1));
        }
        Stop::Asked
    }

    fn next_ready(&self) -> Option<u64> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let count = u64::try_from(ready.len()).ok().filter(|count| *count > 0)?;
        let index = usize::try_from(self.draw(count)).ok()?;
        Some(ready.remove(index))
    }

    /// Goes to the time of the next event; false when there is none.
    fn jump(&self) -> bool {
        let next = self.state.borrow().events.first_key_value().map(|((time, _), _)| *time);
        next.is_some_and(|time| {
            self.pass(time.saturating_sub(self.now()));
            true
        })
    }

    /// Lets time go by and wakes who waited for it.
    fn pass(&self, duration: Duration) {
        let mut state = self.state.borrow_mut();
        let now = state.now + duration;
        state.now = now;
        let later = state.events.split_off(&(now + Duration::from_nanos(1), 0));
        let due = std::mem::replace(&mut state.events, later);
        drop(state);
        due.into_values().for_each(Waker::wake);
    }

    /// Drops all tasks where they are, as a power cut does.
    pub(super) fn drop_tasks(&self) {
        let mut state = self.state.borrow_mut();
        let (tasks, events) = (std::mem::take(&mut state.tasks), std::mem::take(&mut state.events));
        drop(state);
        drop((tasks, events));
    }
}
