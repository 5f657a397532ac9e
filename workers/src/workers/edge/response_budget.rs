//! The memory budget of large responses: bounds their bytes, in total and for each tenant, from
//! before they are made, or as soon as they are, until the connection has taken them.
//!
//! Over NATS the largest possible size is reserved before a response is made, and a query waits
//! until that fits: the server takes what is sent, or the connection ends. Over HTTP a client
//! decides how fast it reads, so nobody waits for it: a response is charged as soon as it is made,
//! and refused if the budget is used up. A quarter of the budget is left to NATS, so clients over
//! HTTP that read nothing never hold up its queries.
//!
//! A charge lasts exactly as long as the memory: it belongs to the bytes, and is given back when
//! the last slice of them is dropped, be that because they were written or because the connection
//! has ended.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use brigade_contracts::list::MAX_BYTES;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A tenant may use one of so many parts of the budget.
const SHARE: usize = 4;
/// One of so many parts of the budget, and of each tenant's share, is left to NATS.
const LEFT_TO_NATS: usize = 4;
/// Responses of at most so many bytes are not charged: the 8,192 connections of a process hold no
/// more than 128 MiB of them, and the usual ones have 1 to 2 KiB.
const SMALL: usize = 16 * 1024;
/// Tenants that use nothing are remembered up to this number.
const MAX_TENANTS: usize = 1024;

type TenantPools = HashMap<Box<str>, Weak<Semaphore>>;

/// A budget of bytes that is shared by all large responses of an edge.
#[derive(Clone)]
pub struct ResponseBudget(Arc<Pools>);

/// The free bytes: those of all, and those of each tenant that uses some.
struct Pools {
    total: Pool,
    bytes_per_tenant: usize,
    tenants: Mutex<TenantPools>,
}

/// One permit for each free byte, and how many there are in all.
struct Pool {
    free: Arc<Semaphore>,
    size: usize,
}

/// Bytes of the budget that are in use, given back when it is dropped.
pub struct ResponseCharge {
    of_tenant: Option<OwnedSemaphorePermit>,
    of_total: Option<OwnedSemaphorePermit>,
}

/// The reason why a response is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetExceeded {
    /// The responses of all tenants use up the budget.
    Total,
    /// The responses of the tenant use up its share.
    Share,
}

/// A body that is charged for as long as anything refers to it.
struct ChargedBody {
    body: Bytes,
    _charge: ResponseCharge,
}

impl AsRef<[u8]> for ChargedBody {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl ResponseBudget {
    /// Creates a budget for `responses` responses of the largest size, a quarter of it for each
    /// tenant.
    #[must_use]
    pub fn new(responses: usize) -> Self {
        let bytes_per_tenant = responses.div_ceil(SHARE) * MAX_BYTES;
        let total = Pool::new(responses * MAX_BYTES);
        Self(Arc::new(Pools { total, bytes_per_tenant, tenants: Mutex::default() }))
    }

    /// Waits until a response of the largest size fits. The tenant's share comes first, so that no
    /// tenant has more than its share waiting for the rest.
    pub async fn reserve(&self, tenant: &str) -> ResponseCharge {
        let size = u32::try_from(MAX_BYTES).unwrap_or(u32::MAX);
        let share = self.0.pool_of(&mut self.0.tenants(), tenant);
        // Neither is ever closed.
        let of_tenant = share.free.acquire_many_owned(size).await.ok();
        let of_total = self.0.total.free.clone().acquire_many_owned(size).await.ok();
        ResponseCharge { of_tenant, of_total }
    }

    /// Charges a body to a tenant, and returns the same bytes, which give the charge back when
    /// they are dropped. Small ones are free.
    ///
    /// # Errors
    /// If the tenant's share, or the whole budget, is used up but for what is left to NATS.
    pub fn charge(&self, tenant: &str, body: Bytes) -> Result<Bytes, BudgetExceeded> {
        if body.len() <= SMALL {
            return Ok(body);
        }
        // Held until both are taken, so that what is left to NATS is not taken twice.
        let mut tenants = self.0.tenants();
        let share = self.0.pool_of(&mut tenants, tenant);
        let of_tenant = share.try_take(body.len()).ok_or(BudgetExceeded::Share)?;
        let of_total = self.0.total.try_take(body.len()).ok_or(BudgetExceeded::Total)?;
        drop(tenants);
        let _charge = ResponseCharge { of_tenant: Some(of_tenant), of_total: Some(of_total) };
        Ok(Bytes::from_owner(ChargedBody { body, _charge }))
    }
}

impl ResponseCharge {
    /// Gives back what a response of this size does not use.
    pub fn shrink_to(&mut self, bytes: usize) {
        for permits in [&mut self.of_tenant, &mut self.of_total].into_iter().flatten() {
            let unused = permits.num_permits().saturating_sub(bytes);
            drop(permits.split(unused));
        }
    }
}

impl Pools {
    fn tenants(&self) -> MutexGuard<'_, TenantPools> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the share of a tenant.
    fn pool_of(&self, tenants: &mut TenantPools, tenant: &str) -> Pool {
        let size = self.bytes_per_tenant;
        if let Some(free) = tenants.get(tenant).and_then(Weak::upgrade) {
            return Pool { free, size };
        }
        if tenants.len() >= MAX_TENANTS {
            tenants.retain(|_, share| share.strong_count() > 0);
        }
        let share = Pool::new(size);
        tenants.insert(tenant.into(), Arc::downgrade(&share.free));
        share
    }
}

impl Pool {
    fn new(size: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(size)), size }
    }

    /// Takes bytes if enough are free beside those that are left to NATS.
    fn try_take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let left_to_nats = self.size / LEFT_TO_NATS;
        let fits = self.free.available_permits() >= bytes + left_to_nats;
        let bytes = u32::try_from(bytes).ok().filter(|_| fits)?;
        self.free.clone().try_acquire_many_owned(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn body() -> Bytes {
        vec![b'x'; MAX_BYTES].into()
    }

    #[tokio::test]
    async fn a_tenant_waits_for_its_own_and_leaves_room_for_others() {
        let budget = ResponseBudget::new(8);
        let now = |tenant: &'static str| budget.reserve(tenant).now_or_never();
        let first = now("t1");
        let second = now("t1");
        assert!(first.is_some() && second.is_some() && now("t1").is_none());
        let others: Vec<_> = ["t2", "t3", "t4"].map(|t| [now(t), now(t)]).into();
        assert!(others.iter().flatten().all(Option::is_some));
        assert!(now("t5").is_none(), "no memory for anybody");
        // The waiting of one that has its share takes nothing from others.
        let mut waiting: Vec<_> = (0..9).map(|_| Box::pin(budget.reserve("t1"))).collect();
        assert!(waiting.iter_mut().all(|reserved| reserved.now_or_never().is_none()));
        drop(others);
        assert!(now("t5").is_some());
        drop(first);
        assert!(waiting[0].as_mut().now_or_never().is_some());
    }

    #[test]
    fn a_body_is_charged_as_long_as_any_of_its_bytes_are_kept() {
        let budget = ResponseBudget::new(16);
        let charge = |tenant: &str| budget.charge(tenant, body());
        let mut kept: Vec<Bytes> = (0..3).map(|_| charge("t1").expect("it fits")).collect();
        assert_eq!(kept[0], body());
        assert_eq!(charge("t1"), Err(BudgetExceeded::Share), "a quarter is left to NATS");
        assert!(charge("t2").is_ok());
        // Bodies that were written but for their ends.
        let ends: Vec<Bytes> = kept.iter().map(|body| body.slice(MAX_BYTES - 1..)).collect();
        kept.clear();
        assert_eq!(charge("t1"), Err(BudgetExceeded::Share));
        drop(ends);
        assert!(charge("t1").is_ok());
    }

    #[test]
    fn all_tenants_together_leave_a_quarter_to_nats() {
        let budget = ResponseBudget::new(16);
        let tenants = ["t1", "t2", "t3", "t4"];
        let kept: Vec<_> = tenants
            .into_iter()
            .flat_map(|tenant| [tenant; 3])
            .map(|tenant| budget.charge(tenant, body()))
            .collect();
        assert!(kept.iter().all(Result::is_ok));
        assert_eq!(budget.charge("t5", body()), Err(BudgetExceeded::Total));
        let mut reserved: Vec<_> =
            ["t1", "t2", "t5", "t6"].map(|tenant| budget.reserve(tenant).now_or_never()).into();
        assert!(reserved.iter().all(Option::is_some));
        assert!(budget.reserve("t5").now_or_never().is_none(), "all of it is in use");
        reserved.iter_mut().flatten().for_each(|charge| charge.shrink_to(MAX_BYTES / 2));
        assert!(budget.reserve("t5").now_or_never().is_some(), "two halves are free again");
        assert!(budget.charge("t5", vec![b'x'; SMALL].into()).is_ok(), "small ones are free");
    }

    #[tokio::test]
    async fn who_has_nothing_is_forgotten() {
        let budget = ResponseBudget::new(8);
        let kept = budget.reserve("kept").await;
        for n in 0..3 * MAX_TENANTS {
            drop(budget.reserve(&n.to_string()).await);
        }
        let tenants = budget.0.tenants();
        assert!(tenants.len() <= MAX_TENANTS && tenants.contains_key("kept"));
        drop((tenants, kept));
    }
}
