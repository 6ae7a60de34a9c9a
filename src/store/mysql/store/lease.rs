//! How are leases taken and released? By the writer task.

use std::time::Duration;

use tokio::sync::oneshot;

use super::super::MySqlStore;
use super::super::write::{Job, LeaseJob};
use crate::key::CacheKey;
use crate::store::{Fence, Lease, Leases, StoreFuture};

impl Leases for MySqlStore {
    fn lease<'a>(&'a self, key: &'a CacheKey, time: Duration) -> StoreFuture<'a, Lease> {
        let (ack, outcome) = oneshot::channel();
        let job = LeaseJob::Take { hash: key.hash(), time, ack };
        Box::pin(self.submit(Job::Lease(job), outcome))
    }

    fn release<'a>(
        &'a self,
        fence: &'a Fence,
        unshareable: Option<Duration>,
    ) -> StoreFuture<'a, ()> {
        let (ack, outcome) = oneshot::channel();
        let (hash, number) = (fence.key.hash(), fence.number);
        let job = LeaseJob::Release { hash, number, unshareable, ack };
        Box::pin(self.submit(Job::Lease(job), outcome))
    }
}
