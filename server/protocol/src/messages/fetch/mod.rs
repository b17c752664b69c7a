//! Fetch: reads records from partitions.
//!
//! A server reads a [`RequestView`], which borrows from the frame and allocates nothing, and
//! writes its answer with a [`ResponseEncoder`], in which records are holes to be filled by
//! `sendfile`. A client writes an owned [`Request`] and reads an owned [`Response`], whose
//! records are slices of the frame.

mod request;
mod response;

pub use request::{
    FetchPartition, ForgottenTopic, ForgottenTopicView, Request, RequestHead, RequestView,
    TopicRequest, TopicView,
};
pub use response::{
    AbortedTransaction, EpochEndOffset, PartitionHead, PartitionResponse, Response,
    ResponseEncoder, ResponseHead, SnapshotId, TopicResponse,
};
