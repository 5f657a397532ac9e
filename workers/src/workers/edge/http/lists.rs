//! The handlers of lists. A page is asked for in the query of the path (`limit`, `after`, `day`,
//! `before`, `payment`), or in headers of these names as over NATS; the header `Link` has the path of the next
//! one.

use std::{collections::HashMap, fmt::Write, sync::Arc};

use axum::{
    body::Body,
    extract::{FromRequestParts, Path},
    http::{HeaderMap, HeaderValue, Response, header::LINK, request::Parts},
};
use brigade_contracts::{
    Address, Aggregate, Refusal, Token,
    header::{AFTER, BEFORE, CONFIRM, DAY, IF_NONE_MATCH, LIMIT, PAYMENT, RESUME},
    list::ListHeaders,
    page::{self, Day, PageHeaders},
    query::{HistoryHeaders, ProductsHeaders},
};
use form_urlencoded::Serializer;

use super::{
    admission::RequestPermit,
    extract::{path_token, select_headers},
    policy::RequiredRole,
    response::query_response,
    sessions::no_user,
    state::HttpApi,
};
use crate::{
    runtime::http::Problem,
    workers::edge::query::{Query, pages::PagedList},
};

/// The parameters that name a page in the query of a path, and the headers that say the same.
const PARAMETERS: [(&str, &str); 5] =
    [("limit", LIMIT), ("after", AFTER), ("before", BEFORE), ("day", DAY), ("payment", PAYMENT)];

/// A request for a list of a tenant.
pub(super) struct ListRequest {
    api: Arc<HttpApi>,
    permit: Option<RequestPermit>,
    tenant: Token,
    /// The owner in the path, where there is one.
    owner: Option<String>,
    path: String,
    /// The parameters of the query, by the names of headers.
    parameters: Vec<(&'static str, String)>,
    headers: HeaderMap,
}

impl FromRequestParts<Arc<HttpApi>> for ListRequest {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<HttpApi>) -> Result<Self, Problem> {
        let unreadable = || Refusal::new(400, "bad_subject", "the path cannot be read");
        let path = Path::<HashMap<String, String>>::from_request_parts(parts, api).await;
        let Path(mut segments) = path.map_err(|_| unreadable())?;
        let named = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
        let parameters = named.filter_map(|(name, value)| {
            let (_, header) = PARAMETERS.iter().find(|(parameter, _)| name == *parameter)?;
            Some((*header, value.into_owned()))
        });
        Ok(Self {
            api: api.clone(),
            permit: parts.extensions.get::<RequestPermit>().cloned(),
            tenant: path_token(&segments.remove("tenant").unwrap_or_default())?,
            owner: segments.remove("owner"),
            path: parts.uri.path().to_owned(),
            parameters: parameters.collect(),
            headers: parts.headers.clone(),
        })
    }
}

impl ListRequest {
    /// Returns what the headers and the query of the path say under these names.
    fn select(&self, names: &[&'static str]) -> Result<Vec<(&'static str, &str)>, Refusal> {
        let mut selected = select_headers(&self.headers, names)?;
        let parameters = self.parameters.iter().filter(|(name, _)| names.contains(name));
        selected.extend(parameters.map(|(name, value)| (*name, value.as_str())));
        Ok(selected)
    }

    /// Lets whoever has this role read the list, or the user whose it is. Returns that user.
    ///
    /// # Errors
    /// 401 and 403; `503 unconfirmed`.
    async fn authorize(&self, role: RequiredRole) -> Result<Option<Token>, Problem> {
        let permit = self.permit.as_ref().ok_or_else(no_permit)?;
        let requester = self.api.auth.admit(permit, &self.tenant, &self.headers).await?;
        match role {
            RequiredRole::Staff => self.api.auth.authorize_list(&requester)?,
            RequiredRole::Manager => self.api.auth.authorize_money(&requester)?,
            RequiredRole::Oneself => {
                return Ok(Some(requester.user().ok_or_else(no_user)?.clone()));
            }
            _ => {
                let owner = path_token(self.owner.as_deref().unwrap_or_default())?;
                self.api.auth.authorize_person(&requester, &owner)?;
                return Ok(Some(owner));
            }
        }
        Ok(None)
    }

    /// Answers a query. What is not read counts for `occupant`.
    async fn answer(&self, occupant: &str, query: Query) -> Result<Response<Body>, Problem> {
        let mut reply = self.api.answer(occupant, query).await?;
        let next = reply.next.take();
        let mut response = query_response(reply, None);
        if let Some(link) = next.map(|next| self.link(&next)).transpose()? {
            response.headers_mut().insert(LINK, link);
        }
        Ok(response)
    }

    /// Returns the header `Link` of a page: the path of the next one, of which all else is the same.
    fn link(&self, next: &str) -> Result<HeaderValue, Refusal> {
        let mut query = Serializer::new(String::new());
        for (parameter, header) in PARAMETERS {
            let same = self.select(&[header])?.first().map(|(_, value)| (*value).to_owned());
            let value = if header == AFTER { Some(next.to_owned()) } else { same };
            if let Some(value) = value {
                query.append_pair(parameter, &value);
            }
        }
        let mut link = String::new();
        // A String takes everything.
        let _taken = write!(link, "<{}?{}>; rel=\"next\"", self.path, query.finish());
        HeaderValue::try_from(link)
            .map_err(|_| Refusal::new(500, "internal", "a path that cannot be told"))
    }

    async fn page(self, list: PagedList) -> Result<Response<Body>, Problem> {
        let headers = PageHeaders::parse(self.select(&[IF_NONE_MATCH, LIMIT, AFTER])?.into_iter())?;
        let query = Query::Page(self.tenant.clone(), list, headers);
        self.answer(self.tenant.as_str(), query).await
    }
}

/// Handles `GET /v1/{tenant}/active-orders`.
pub(super) async fn get_active_orders(request: ListRequest) -> Result<Response<Body>, Problem> {
    request.authorize(RequiredRole::Staff).await?;
    let selected = request.select(&[IF_NONE_MATCH, RESUME, CONFIRM, LIMIT, AFTER])?;
    let headers = ListHeaders::parse(selected.into_iter())?;
    let query = Query::ActiveOrders(request.tenant.clone(), headers);
    request.answer(request.tenant.as_str(), query).await
}

/// Handles `GET /v1/{tenant}/products`, for everybody: a menu is read before anybody logs in. What is
/// not read counts for the tenant's guests, not for those who work there.
pub(super) async fn get_products(request: ListRequest) -> Result<Response<Body>, Problem> {
    let selected = request.select(&[IF_NONE_MATCH, LIMIT, AFTER])?;
    let headers = ProductsHeaders::parse(selected.into_iter())?;
    request.api.auth.admit_tenant(&request.tenant).await?;
    request.permit.as_ref().ok_or_else(no_permit)?.take_of_menu(&request.tenant)?;
    let guests = format!("{}.guests", request.tenant);
    request.answer(&guests, Query::Products(request.tenant.clone(), headers)).await
}

/// Handles `GET /v1/{tenant}/tables`.
pub(super) async fn get_tables(request: ListRequest) -> Result<Response<Body>, Problem> {
    request.authorize(RequiredRole::Staff).await?;
    request.page(PagedList::Tables).await
}

/// Handles `GET /v1/{tenant}/me/carts`.
pub(super) async fn get_my_carts(request: ListRequest) -> Result<Response<Body>, Problem> {
    let user = request.authorize(RequiredRole::Oneself).await?.ok_or_else(no_user)?;
    request.page(PagedList::Carts(user)).await
}

/// Handles `GET /v1/{tenant}/me/orders`.
pub(super) async fn get_my_orders(request: ListRequest) -> Result<Response<Body>, Problem> {
    let user = request.authorize(RequiredRole::Oneself).await?.ok_or_else(no_user)?;
    request.page(PagedList::Orders(user)).await
}

/// Handles `GET /v1/{tenant}/ended-orders`.
pub(super) async fn get_ended_orders(request: ListRequest) -> Result<Response<Body>, Problem> {
    request.authorize(RequiredRole::Staff).await?;
    let day = Day::of(request.select(&[DAY])?.into_iter())?;
    request.page(PagedList::EndedOrders(day)).await
}

/// Handles `GET /v1/{tenant}/refund-tasks`.
pub(super) async fn get_refund_tasks(request: ListRequest) -> Result<Response<Body>, Problem> {
    request.authorize(RequiredRole::Manager).await?;
    let payment = page::payment(request.select(&[PAYMENT])?.into_iter())?;
    request.page(PagedList::RefundTasks(payment)).await
}

/// Handles `GET /v1/{tenant}/unknown-payments`.
pub(super) async fn get_unknown_payments(request: ListRequest) -> Result<Response<Body>, Problem> {
    request.authorize(RequiredRole::Manager).await?;
    request.page(PagedList::UnknownPayments).await
}

/// Handles `GET /v1/{tenant}/locks/{owner}`.
pub(super) async fn get_lock(request: ListRequest) -> Result<Response<Body>, Problem> {
    let lock = request.lock().await?;
    request.answer(request.tenant.as_str(), Query::Lock(lock)).await
}

/// Handles `GET /v1/{tenant}/locks/{owner}/history`.
pub(super) async fn get_lock_history(request: ListRequest) -> Result<Response<Body>, Problem> {
    let lock = request.lock().await?;
    let headers = HistoryHeaders::parse(request.select(&[LIMIT, BEFORE])?.into_iter())?;
    request.answer(request.tenant.as_str(), Query::LockHistory(lock, headers)).await
}

impl ListRequest {
    /// Returns the lock of the owner in the path, for the owner and for staff.
    async fn lock(&self) -> Result<Address, Problem> {
        let owner = self.authorize(RequiredRole::Owner).await?.ok_or_else(no_user)?;
        Ok(Address { tenant: self.tenant.clone(), aggregate: Aggregate::Lock, id: owner })
    }
}

/// Every request is admitted before its handler is called.
fn no_permit() -> Refusal {
    Refusal::new(500, "internal", "a request that nobody admitted")
}
