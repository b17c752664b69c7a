//! One sync at a time.

use super::is_out_of_descriptors;
use std::future::Future;
use std::io;
use std::rc::Rc;
use tokio::sync::Mutex;

/// Whose turn it is to sync something, and whether a sync of it has failed. Of two that overlap
/// the one that fails can take the other's error with it, for Linux reports a failed write-back
/// once; and what a failed one has lost no later one brings back.
#[derive(Clone, Default)]
pub(crate) struct SyncTurn(Rc<Mutex<bool>>);

impl SyncTurn {
    /// Runs `sync`, which begins when it is polled, once no other is running. After one that failed
    /// all fail.
    pub(crate) async fn run<T>(&self, sync: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let mut has_failed = self.0.lock().await;
        if *has_failed {
            return Err(io::Error::other("an earlier sync has failed"));
        }
        // One that is given up halfway has failed as far as anybody will know.
        *has_failed = true;
        let done = sync.await;
        // Without a descriptor none was tried.
        *has_failed = done.as_ref().is_err_and(|error| !is_out_of_descriptors(error));
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::futures::join;
    use std::cell::RefCell;
    use std::future::{pending, ready};
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn now<F: Future>(future: F) -> Option<F::Output> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        }
    }

    fn failed() -> io::Result<()> {
        Err(io::ErrorKind::Other.into())
    }

    #[test]
    fn one_runs_at_a_time_and_the_next_begins_when_it_has_ended() {
        let (turn, told) = (SyncTurn::default(), RefCell::new(Vec::new()));
        let sync = |name| {
            let (turn, told) = (turn.clone(), &told);
            async move {
                let steps = async {
                    told.borrow_mut().push((name, "begins"));
                    tokio::task::yield_now().await;
                    told.borrow_mut().push((name, "ends"));
                    Ok(())
                };
                turn.run(steps).await
            }
        };
        let mut both = pin!(join(sync("a"), sync("b")));
        while now(both.as_mut()).is_none() {}
        assert_eq!(told.take(), [("a", "begins"), ("a", "ends"), ("b", "begins"), ("b", "ends")]);
    }

    #[test]
    fn after_one_that_failed_or_was_given_up_none_is_tried() {
        for given_up in [false, true] {
            let turn = SyncTurn::default();
            assert!(now(turn.run(ready(Ok(())))).unwrap().is_ok());
            if given_up {
                assert!(now(turn.run(pending::<io::Result<()>>())).is_none());
            } else {
                assert!(now(turn.run(ready(failed()))).unwrap().is_err());
            }
            let tried = async { panic!("tried again") };
            assert!(now(turn.run::<()>(tried)).unwrap().is_err());
        }
    }
}
