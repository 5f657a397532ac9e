use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// The state of an order in SQL.
#[derive(Clone, Debug)]
struct Stored {
    core: ActiveCore,
    payment: ActivePayment,
    /// The commits that wrote each part last.
    commit: usize,
}

/// A restaurant: SQL, pushes on their way, and queries on theirs.
#[derive(Default)]
struct World {
    sql: Vec<Stored>,
    commits: usize,
    /// Most rows of an answer.
    cut: usize,
    pushes: VecDeque<Push>,
    /// The newest query, and its answer once that is made.
    query: Option<(u64, Option<ListPosition>, Option<ListResponse>)>,
}

#[derive(Clone, Debug)]
enum Push {
    Core(ActiveCore),
    Payment(Token, ActivePayment),
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Place,
    Accept(usize),
    Pay(usize),
    End(usize),
    /// A push arrives; it may come again if `again`.
    Push {
        at: usize,
        again: bool,
    },
    LosePush(usize),
    Ask,
    /// The newest query is answered; the position that it has is forgotten if `reset`.
    Serve {
        reset: bool,
    },
    Response,
    /// The program restarts with what it kept.
    Restart,
}

fn any_step() -> impl Strategy<Value = Step> {
    let n = 0..12_usize;
    prop_oneof![
        3 => Just(Step::Place),
        3 => n.clone().prop_map(Step::Accept),
        3 => n.clone().prop_map(Step::Pay),
        3 => n.clone().prop_map(Step::End),
        8 => (n.clone(), any::<bool>()).prop_map(|(at, again)| Step::Push { at, again }),
        3 => n.prop_map(Step::LosePush),
        4 => Just(Step::Ask),
        4 => any::<bool>().prop_map(|reset| Step::Serve { reset }),
        4 => Just(Step::Response),
        1 => Just(Step::Restart),
    ]
}

fn active(order: usize) -> (ActiveCore, ActivePayment) {
    let at = format!("2026-01-02T03:04:{:02}.000Z", order / 2);
    let core = json!({
        "version": 1, "at": at, "order": format!("o{order}"), "status": "placed",
        "currency": "EUR", "table_id": null, "turn_id": null, "items": [], "total": 500,
        "created_at": at, "change": {"kind": "added", "fields": [], "reason": null},
    });
    let payment = json!({"version": 1, "at": at, "paid": 0, "paid_at": null});
    (serde_json::from_value(core).unwrap(), serde_json::from_value(payment).unwrap())
}

impl World {
    fn place(&mut self) {
        let (core, payment) = active(self.sql.len());
        self.sql.push(Stored { core, payment, commit: 0 });
        self.commit(self.sql.len() - 1, |_, _| {});
        let payment = self.sql.last().unwrap().payment.clone();
        let order = self.sql.last().unwrap().core.order.clone();
        self.pushes.push_back(Push::Payment(order, payment));
    }

    /// A change of an order that is active, pushed as the part that it touched.
    fn commit(&mut self, n: usize, change: impl FnOnce(&mut ActiveCore, &mut ActivePayment)) {
        let Some(stored) = self.sql.get_mut(n).filter(|stored| is_active(&stored.core)) else {
            return;
        };
        let before = stored.payment.version;
        change(&mut stored.core, &mut stored.payment);
        self.commits += 1;
        stored.commit = self.commits;
        self.pushes.push_back(if stored.payment.version > before {
            Push::Payment(stored.core.order.clone(), stored.payment.clone())
        } else {
            Push::Core(stored.core.clone())
        });
    }

    fn whole(stored: &Stored) -> ActiveRow {
        let due = stored.core.total.less(stored.payment.paid);
        ActiveRow { core: stored.core.clone(), payment: stored.payment.clone(), due }
    }

    fn active(&self) -> Vec<ActiveRow> {
        let active = self.sql.iter().filter(|stored| is_active(&stored.core));
        let mut rows: Vec<ActiveRow> = active.map(Self::whole).collect();
        rows.sort_by_key(|row| (row.core.created_at, row.core.order.clone()));
        rows.reverse();
        rows
    }

    fn serve(&mut self, reset: bool) {
        let mut rows = self.active();
        let more = rows.len() > self.cut;
        rows.truncate(self.cut);
        let versions = |row: &ActiveRow| {
            format!("{} {} {},", row.core.order, row.core.version, row.payment.version)
        };
        let etag = Some(format!("{more} {}", rows.iter().map(versions).collect::<String>()));
        let at = ListPosition { resume: format!("{} {more}", self.commits), etag };
        let Some((_, known, answer)) = &mut self.query else { return };
        let whole = known.as_ref().and_then(|known| known.resume.strip_suffix(" false"));
        *answer = Some(match (&*known, whole) {
            (Some(known), _) if known.etag == at.etag => ListResponse::Same,
            (_, Some(since)) if !reset && !more => {
                let since: usize = since.parse().unwrap();
                let changed = self.sql.iter().filter(|stored| stored.commit > since);
                ListResponse::Changes { changes: changed.map(Self::whole).collect(), at }
            }
            _ => ListResponse::Rows { rows, more, at },
        });
    }
}

/// A program that keeps a list by the news alone, and what it ever saw of each order.
#[derive(Default)]
struct Screen {
    list: ActiveOrders,
    told: BTreeMap<Token, ListedOrder>,
    seen: BTreeMap<Token, (u64, u64)>,
    removed: BTreeSet<Token>,
}

impl Screen {
    fn hear(&mut self, news: impl IntoIterator<Item = OrderListChange>, cut: bool) {
        for news in news {
            let row = match news {
                OrderListChange::Added(row) => {
                    assert!(!self.told.contains_key(&row.core.order), "added twice");
                    row
                }
                OrderListChange::Updated(row) => {
                    assert!(self.told.contains_key(&row.core.order), "updated unknown");
                    row
                }
                OrderListChange::Removed { order, .. } => {
                    assert!(self.told.remove(&order).is_some(), "removed unknown");
                    self.removed.insert(order);
                    continue;
                }
            };
            let order = row.core.order.clone();
            assert!(cut || !self.removed.contains(&order), "{order} came back");
            let versions = (row.core.version, row.versions().1.unwrap_or(0));
            let before = self.seen.insert(order.clone(), versions).unwrap_or_default();
            assert!(before.0 <= versions.0 && before.1 <= versions.1, "{order} went down");
            self.told.insert(order, row);
        }
        let mut told: Vec<&ListedOrder> = self.told.values().collect();
        told.sort_by_key(|row| std::cmp::Reverse((row.core.created_at, row.core.order.clone())));
        assert_eq!(told, self.list.rows().iter().collect::<Vec<_>>());
    }

    fn push(&mut self, push: Push, cut: bool) {
        let news = match push {
            Push::Core(core) => self.list.push_core(core),
            Push::Payment(order, payment) => self.list.push_payment(&order, payment),
        };
        self.hear(news, cut);
    }
}

fn run(steps: &[Step], max: usize) {
    let cut = max < 100;
    let mut world = World { cut: max, ..World::default() };
    let mut screen = Screen::default();
    for step in steps {
        make(*step, &mut world, &mut screen, cut);
    }
    while let Some(push) = world.pushes.pop_front() {
        screen.push(push, cut);
    }
    for step in [Step::Ask, Step::Serve { reset: false }, Step::Response] {
        make(step, &mut world, &mut screen, cut);
    }
    let rows: Vec<ActiveRow> =
        screen.list.rows().iter().map(|row| row.whole().expect("both parts")).collect();
    let mut expected = world.active();
    expected.truncate(max);
    assert_eq!(rows, expected);
}

fn make(step: Step, world: &mut World, screen: &mut Screen, cut: bool) {
    match step {
        Step::Place => world.place(),
        Step::Accept(n) => world.commit(n, |core, _| {
            core.version = core.version.max(1) + 1;
            core.change.kind = ChangeKind::Updated;
        }),
        Step::Pay(n) => world.commit(n, |_, payment| payment.version += 1),
        Step::End(n) => world.commit(n, |core, _| {
            core.version += 1;
            core.status = crate::order::Status::Cancelled;
            core.change.kind = ChangeKind::Removed;
            core.change.reason = Some("guest left".to_owned());
        }),
        Step::Push { at, again } if at < world.pushes.len() => {
            let push = world.pushes[at].clone();
            if !again {
                world.pushes.remove(at);
            }
            screen.push(push, cut);
        }
        Step::LosePush(at) => drop(world.pushes.remove(at)),
        Step::Ask => world.query = Some((screen.list.ask(), screen.list.at().cloned(), None)),
        Step::Serve { reset } => world.serve(reset),
        Step::Response => {
            if let Some((asked, _, Some(answer))) = world.query.take() {
                let news = screen.list.answer(asked, answer);
                screen.hear(news, cut);
            }
        }
        Step::Restart => {
            let kept = serde_json::to_string(&screen.list).unwrap();
            screen.list = serde_json::from_str(&kept).unwrap();
        }
        Step::Push { .. } => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn s4_05_in_any_order_of_pushes_and_polls_the_list_ends_as_in_sql(
        steps in prop::collection::vec(any_step(), 0..120),
    ) {
        run(&steps, 1000);
    }

    #[test]
    fn a_list_that_is_cut_ends_as_in_sql_and_never_goes_down(
        steps in prop::collection::vec(any_step(), 0..120),
    ) {
        run(&steps, 3);
    }
}

fn news_of(list: &mut ActiveOrders, answer: ListResponse) -> Vec<OrderListChange> {
    let asked = list.ask();
    list.answer(asked, answer)
}

fn rows(orders: &[usize]) -> ListResponse {
    let row = |order: &usize| {
        let (core, payment) = active(*order);
        World::whole(&Stored { core, payment, commit: 0 })
    };
    let at = ListPosition { resume: "p".to_owned(), etag: None };
    ListResponse::Rows { rows: orders.iter().map(row).collect(), more: false, at }
}

#[test]
fn a_pushed_order_is_shown_at_once_and_what_is_due_when_its_payment_is_known() {
    let mut list = ActiveOrders::default();
    let (core, payment) = active(0);
    assert!(
        matches!(list.push_core(core.clone()), Some(OrderListChange::Added(row)) if row.due().is_none())
    );
    let news = list.push_payment(&core.order, payment.clone());
    assert!(matches!(news, Some(OrderListChange::Updated(row)) if row.due() == Some(core.total)));
    assert_eq!(list.push_payment(&core.order, payment), None);
    assert_eq!(list.push_core(core), None);
}

#[test]
fn what_was_pushed_after_the_question_stays_and_what_ended_unheard_leaves() {
    let mut list = ActiveOrders::default();
    assert_eq!(news_of(&mut list, rows(&[1, 0])).len(), 2);
    let asked = list.ask();
    list.push_core(active(2).0);
    let ListResponse::Rows { rows: only, more, at } = rows(&[1]) else { unreachable!() };
    let ended = active(0).0.order;
    let removed = OrderListChange::Removed { order: ended.clone(), reason: None };
    assert_eq!(list.answer(asked, ListResponse::Rows { rows: only, more, at }), [removed]);
    // A push of it that was late does not bring it back.
    let late = ActiveCore { version: 2, ..active(0).0 };
    assert_eq!(list.push_core(late), None);
    assert_eq!(list.rows().len(), 2);
    // Asked once more, nobody lists the new one either.
    assert_eq!(news_of(&mut list, rows(&[1])).len(), 1);
}

#[test]
fn what_is_below_a_cut_list_is_out_of_view_and_not_ended_also_when_nothing_changed() {
    let mut list = ActiveOrders::default();
    let ListResponse::Rows { rows: newest, at, .. } = rows(&[5, 4]) else { unreachable!() };
    news_of(&mut list, ListResponse::Rows { rows: newest, more: true, at });
    let (core, _) = active(1);
    assert!(matches!(list.push_core(core.clone()), Some(OrderListChange::Added(_))));
    assert!(matches!(
        news_of(&mut list, ListResponse::Same)[..],
        [OrderListChange::Removed { .. }]
    ));
    let changed = ActiveCore { version: core.version + 1, ..core };
    assert!(matches!(list.push_core(changed), Some(OrderListChange::Added(_))), "it is active");
}

#[test]
fn only_the_answer_to_the_newest_question_counts() {
    let mut list = ActiveOrders::default();
    let old = list.ask();
    assert_eq!(news_of(&mut list, rows(&[1, 0])).len(), 2);
    assert_eq!(list.answer(old, rows(&[])), []);
}

#[test]
fn what_is_not_shown_is_forgotten_in_the_end() {
    let mut list = ActiveOrders::default();
    for n in 0..2 * MAX_UNSHOWN {
        let order = Token::new(&format!("p{n}")).unwrap();
        list.ask();
        list.push_payment(&order, active(0).1);
    }
    list.ask();
    assert_eq!(list.orders.len(), MAX_UNSHOWN);
    assert!(list.orders.keys().any(|order| order.as_str() == "p1999"));
}

#[test]
fn a_list_of_another_era_is_taken_as_it_is() {
    let mut list = ActiveOrders::default();
    let (core, payment) = active(0);
    let of_version = |version, etag: &str| {
        let core = ActiveCore { version, ..core.clone() };
        let stored = Stored { core, payment: payment.clone(), commit: 0 };
        let at = ListPosition { resume: "p".to_owned(), etag: Some(etag.to_owned()) };
        ListResponse::Rows { rows: vec![World::whole(&stored)], more: false, at }
    };
    news_of(&mut list, of_version(5, "\"ab\""));
    assert_eq!(news_of(&mut list, of_version(3, "\"cd\"")), [], "late, in the same era");
    assert_eq!(list.rows()[0].core.version, 5);
    // Of the two the database has lost one, and a change of the other.
    list.push_core(active(1).0);
    let news = news_of(&mut list, of_version(3, "\"ef-9\""));
    let removed = OrderListChange::Removed { order: active(1).0.order, reason: None };
    assert!(news.len() == 2 && news.contains(&removed), "{news:?}");
    let versions: Vec<_> = list.rows().iter().map(|row| row.core.version).collect();
    assert_eq!(versions, [3]);
}
