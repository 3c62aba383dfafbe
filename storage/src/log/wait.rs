//! Waiting inside one executor: for a condition, and for a ticket to become durable.
//!
//! **Invariant**: a waiter that goes away leaves nothing behind; nobody is woken by name before its time.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::{Poll, Waker};

use crate::types::Ticket;

/// Wakes those who wait for a condition to be looked at again. For a handful of waiters.
#[derive(Debug, Default)]
pub(crate) struct Event {
    waiters: RefCell<Vec<(u64, Waker)>>,
    next: Cell<u64>,
}

/// Takes its waiter out when the waiting is over or given up.
struct Seat<'a> {
    of: &'a Event,
    number: u64,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.of.waiters.borrow_mut().retain(|(number, _)| *number != self.number);
    }
}

impl Event {
    /// The condition of somebody may hold now.
    pub(crate) fn notify(&self) {
        // Taken out first: a waker may run code that waits again.
        let waiters = std::mem::take(&mut *self.waiters.borrow_mut());
        for (_, waiter) in waiters {
            waiter.wake();
        }
    }

    /// Looks at the condition now and after each [`Event::notify`], until it gives something.
    pub(crate) async fn until<T>(&self, mut condition: impl FnMut() -> Option<T>) -> T {
        if let Some(value) = condition() {
            return value;
        }
        let number = self.next.replace(self.next.get().wrapping_add(1));
        let _seat = Seat { of: self, number };
        poll_fn(|context| {
            if let Some(value) = condition() {
                return Poll::Ready(value);
            }
            let mut waiters = self.waiters.borrow_mut();
            match waiters.iter_mut().find(|(seat, _)| *seat == number) {
                Some((_, waiter)) => waiter.clone_from(context.waker()),
                None => waiters.push((number, context.waker().clone())),
            }
            Poll::Pending
        })
        .await
    }
}

/// Those who wait for tickets, in order of tickets; any number of them.
#[derive(Debug, Default)]
pub(crate) struct TicketWaiters {
    waiters: RefCell<BTreeMap<(Ticket, u64), Waker>>,
    next: Cell<u64>,
}

/// Takes its waiter out when the waiting is over or given up.
struct Place<'a> {
    of: &'a TicketWaiters,
    key: (Ticket, u64),
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.of.waiters.borrow_mut().remove(&self.key);
    }
}

impl TicketWaiters {
    /// Wakes all who wait for a ticket up to `durable`.
    pub(crate) fn reached(&self, durable: Ticket) {
        loop {
            let first = {
                let mut waiters = self.waiters.borrow_mut();
                match waiters.first_entry() {
                    Some(entry) if entry.key().0 <= durable => entry.remove(),
                    _ => return,
                }
            };
            first.wake();
        }
    }

    /// Looks at the condition now, and when `ticket` is reached.
    pub(crate) async fn until<T>(&self, ticket: Ticket, mut condition: impl FnMut() -> Option<T>) -> T {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        let place = Place { of: self, key: (ticket, number) };
        poll_fn(|context| {
            if let Some(value) = condition() {
                return Poll::Ready(value);
            }
            self.waiters.borrow_mut().insert(place.key, context.waker().clone());
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::io::Io;
    use crate::io::memory::MemoryIo;

    #[test]
    fn waiters_resume_when_their_ticket_is_reached_and_leave_nothing_behind() {
        let waiters = Rc::new(TicketWaiters::default());
        let durable = Rc::new(Cell::new(Ticket(0)));
        let order = Rc::new(RefCell::new(Vec::new()));
        let io = MemoryIo::new(1);
        for ticket in [3, 1, 2] {
            let (waiters, durable, order) = (Rc::clone(&waiters), Rc::clone(&durable), Rc::clone(&order));
            io.spawn(async move {
                waiters.until(Ticket(ticket), || (durable.get() >= Ticket(ticket)).then_some(())).await;
                order.borrow_mut().push(ticket);
            });
        }
        let seen = Rc::clone(&order);
        io.run({
            let (io, waiters) = (io.clone(), Rc::clone(&waiters));
            async move {
                for reached in [1, 2] {
                    io.sleep(std::time::Duration::from_millis(1)).await;
                    durable.set(Ticket(reached));
                    waiters.reached(Ticket(reached));
                }
                io.sleep(std::time::Duration::from_millis(1)).await;
            }
        })
        .unwrap();
        assert_eq!(*seen.borrow(), [1, 2]);
        assert_eq!(waiters.waiters.borrow().len(), 1);
        let _ = io.after_power_cut(crate::io::memory::Survivors::All);
        assert!(waiters.waiters.borrow().is_empty(), "a waiter that is dropped takes its place away");
    }
}
