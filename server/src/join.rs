//! Runs several futures of one core at once.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// A future, and what came of it.
struct Running<F: Future> {
    future: Pin<Box<F>>,
    output: Option<F::Output>,
}

/// Runs all of `futures` at once; their results in order. Each wake-up looks at all of them, so
/// it is for dozens, not thousands.
pub(crate) async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let start = |future| Running::<F> { future: Box::pin(future), output: None };
    let mut running: Vec<_> = futures.into_iter().map(start).collect();
    poll_fn(|cx| {
        let mut waiting = false;
        for Running { future, output } in &mut running {
            if output.is_none() {
                match future.as_mut().poll(cx) {
                    Poll::Ready(value) => *output = Some(value),
                    Poll::Pending => waiting = true,
                }
            }
        }
        if waiting { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    running.into_iter().filter_map(|running| running.output).collect()
}
