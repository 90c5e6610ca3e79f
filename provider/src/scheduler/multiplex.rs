//! Phase 2: the function as a guest of a worker in a container it does not own, and back.
//!
//! In: a function, the workers on offer, the policy. Out: [`Action::Specialise`] and [`Action::Release`] for guests.
//! Always: functions that nothing serves go first; where the function's own interpreter waits before another standby container, and that before another function's; that only within the same share group and namespace and while its
//! owner has nothing to do; few at a time of one function and in all; one order a place. Guests go when the function's own
//! replicas are enough, and at once when the container's owner needs what they have.

use hyperfaas_protocol::control::WorkerState;
use hyperfaas_protocol::moment::Moment;

use super::action::{Action, PlaceKind, Plan, WorkerPlace};
use super::look::Look;
use super::out::{Scale, is_served};
use super::plan::Budget;
use super::policy::Policy;
use super::scaling::Scaling;
use super::snapshot::{FunctionView, GuestView, ImageState, Offer, Phase};
use super::why::Rule;

/// What came of asking for places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// As many as should be, or as can be whatever others do.
    Enough,
    /// Fewer: it is to be looked at again when there is something on offer.
    Lacking,
}

/// Whether requests wait and nothing serves them, nor is about to in a place it does not own.
pub fn is_unserved(function: &FunctionView) -> bool {
    function.parked > 0 && function.guests.is_empty() && !is_served(function)
}

/// Asks for guest places where the function's own containers are not enough.
pub(super) fn take_places(
    look: &Look<'_>,
    scaling: &Scaling,
    budget: &mut Budget,
    plan: &mut Plan,
) -> Taken {
    let Look { function, policy, now, .. } = *look;
    let is_able = function.image == ImageState::Present && function.may_visit;
    if !is_able {
        return Taken::Enough;
    }
    let Some(rule) = reason(look, scaling, look.bare_need()) else { return Taken::Enough };
    if let Some(failure) = function.visit_failure {
        let retry_at = failure.last.after(policy.backoff(failure.count));
        if now < retry_at {
            plan.wake(retry_at);
            return Taken::Enough;
        }
    }
    let coming = function.guests.iter().filter(|g| g.state == WorkerState::Specialising).count();
    let at_once = match rule {
        // While nothing serves, one is enough to begin with: what one takes is not known before.
        Rule::Waiting => 1,
        // All that those who wait need begin together: nobody waits for another's visit to be through.
        Rule::WorkerFull => takes_at_once(function)
            .map_or(policy.specialisations_of_one, |most| function.parked.div_ceil(most) as usize),
        _ => policy.specialisations_of_one,
    };
    let room = policy.guests_of_one.saturating_sub(function.guests.len());
    let mut left = at_once.saturating_sub(coming).min(room);
    while left > 0 {
        if budget.specialisations == 0 || (budget.is_reserved && rule != Rule::Waiting) {
            return Taken::Lacking;
        }
        let Some(index) = best(function, scaling, &budget.offers) else { return Taken::Lacking };
        let offer = budget.offers.swap_remove(index);
        let kind = kind(&offer);
        let place =
            WorkerPlace { host: offer.host, worker: offer.worker, epoch: offer.epoch, kind };
        let why = look.why(rule, look.need());
        plan.actions.push(Action::Specialise { function: function.key.clone(), place, why });
        budget.specialisations -= 1;
        left -= 1;
    }
    Taken::Enough
}

/// Requests that one worker of it takes at once, where that is known.
fn takes_at_once(function: &FunctionView) -> Option<u32> {
    let own = function.ready().map(|replica| replica.workers[0].limit);
    let guests = function.guests.iter().map(|guest| guest.limit);
    own.chain(guests).max().filter(|most| *most > 0)
}

/// Whether places in containers it does not own are needed now.
pub fn wants_places(
    function: &FunctionView,
    scaling: &Scaling,
    policy: &Policy,
    now: Moment,
) -> bool {
    // Most neither have somebody waiting nor are at their ceiling, and are not summed up for this.
    if function.parked == 0 && !is_at_ceiling(function, scaling) {
        return false;
    }
    let look = Look::at(function, policy, now);
    reason(&look, scaling, look.need()).is_some()
}

/// Until when no further containers of the function are to be started: creating one takes the engine, and with it the processor,
/// for longer than a visit takes to its first answer. `plan` has what is ordered now. `None`: they may be.
pub(super) fn yields_until(look: &Look<'_>, plan: &Plan) -> Option<Moment> {
    let Look { function, policy, now, .. } = *look;
    let until = |guest: &GuestView| match guest.state {
        WorkerState::Specialising => guest.since.after(policy.visit_first_for),
        WorkerState::Ready => guest.since.after(policy.answer_first_for),
        _ => guest.since,
    };
    let begins = plan.actions.iter().any(
        |action| matches!(action, Action::Specialise { place, .. } if place.kind != PlaceKind::Own),
    );
    let new = begins.then(|| now.after(policy.visit_first_for));
    function.guests.iter().map(until).chain(new).max().filter(|until| *until > now)
}

/// Why guests are needed, if they are; head room, which `bare` is without, is phase 1's and 3's to make.
fn reason(look: &Look<'_>, scaling: &Scaling, bare: f64) -> Option<Rule> {
    let Look { function, sums, .. } = *look;
    if !is_served(function) {
        return (function.parked > 0).then_some(Rule::Waiting);
    }
    if function.parked > 0 {
        return Some(Rule::WorkerFull);
    }
    let guests = function.guests.iter().filter(|g| g.state != WorkerState::Draining).count();
    let granted = sums.granted?;
    // A guest is taken to bring as much as one replica has at its ceiling.
    let lent = scaling.ceiling.cpu.unwrap_or(0).saturating_mul(u32::try_from(guests).unwrap_or(0));
    // A request uses one CPU at most: while all that is in flight can run, nothing waits, whatever the rate says.
    let running = f64::from(sums.in_flight) * 1000.0;
    let is_short = bare.min(running) > f64::from(granted) + f64::from(lent);
    (is_short && is_at_ceiling(function, scaling)).then_some(Rule::AtCeiling)
}

/// Whether none of its containers can be given more CPU.
fn is_at_ceiling(function: &FunctionView, scaling: &Scaling) -> bool {
    function.ready().all(|replica| {
        replica.grant.cpu.zip(scaling.ceiling.cpu).is_some_and(|(cpu, most)| cpu >= most)
    })
}

/// The best offer: where its interpreter waits, then a standby container, then the container whose owner has least to do.
fn best(function: &FunctionView, scaling: &Scaling, offers: &[Offer]) -> Option<usize> {
    let may = |offer: &Offer| match &offer.owner {
        None => true,
        Some(owner) => {
            *owner != function.key
                && owner.namespace == function.key.namespace
                && offer.owner_in_flight == 0
                && scaling.share.is_some()
                && offer.share == scaling.share
        }
    };
    offers
        .iter()
        .enumerate()
        .filter(|(_, offer)| may(offer))
        .min_by_key(|(_, offer)| (kind(offer), offer.owner_in_flight))
        .map(|(index, _)| index)
}

fn kind(offer: &Offer) -> PlaceKind {
    match offer.owner {
        Some(_) => PlaceKind::Guest,
        None if offer.is_zygote => PlaceKind::Zygote,
        None => PlaceKind::Standby,
    }
}

/// Gives guest places back once the function's own replicas are enough.
pub(super) fn give_back(look: &Look<'_>, scale: &Scale, plan: &mut Plan) {
    let Look { function, policy, now, sums } = *look;
    if function.guests.is_empty() {
        return;
    }
    let own_are_enough =
        (sums.ready >= scale.desired.max(1) && fits_own(look)) || function.wanted.is_none();
    let is_idle = look.is_quiet();
    // A guest of a revision that is no longer wanted goes as soon as something of the wanted one serves.
    let is_over = |revision: u64| {
        function.wanted.is_none()
            || (revision != function.revision()
                && function.ready().any(|replica| replica.revision == function.revision()))
    };
    let serving = function.guests.iter().filter(|guest| {
        matches!(guest.state, WorkerState::Ready | WorkerState::Crashed)
            && (now.since(guest.since) >= policy.cool_for || is_over(guest.revision))
    });
    let may_go = own_are_enough || (scale.desired == 0 && is_idle);
    for guest in serving.filter(|guest| may_go || is_over(guest.revision)) {
        let kind = if guest.is_standby { PlaceKind::Standby } else { PlaceKind::Guest };
        let place = WorkerPlace {
            host: guest.host.clone(),
            worker: guest.worker,
            epoch: guest.epoch,
            kind,
        };
        let why = look.why(Rule::HandedOver, look.need());
        plan.actions.push(Action::Release { function: function.key.clone(), place, why });
    }
}

/// Whether the function's own replicas can give what is needed: else a guest that goes comes straight back.
fn fits_own(look: &Look<'_>) -> bool {
    let function = look.function;
    let ceiling = function.wanted.as_ref().and_then(|wanted| wanted.scaling.ceiling.cpu);
    let most = function.ready().try_fold(0_u32, |sum, replica| {
        let most = replica.grant.cpu?.max(ceiling.unwrap_or(0));
        Some(sum.saturating_add(most))
    });
    most.is_none_or(|most| look.need() <= f64::from(most))
}

/// Sends guests away from the function's own containers while these are above their watermark.
pub(super) fn evict(look: &Look<'_>, plan: &mut Plan) {
    let function = look.function;
    let hosts = function.replicas.iter().filter(|replica| {
        let second = &replica.workers[1];
        replica.phase == Phase::Ready
            && replica.pressure.is_some()
            && second.is_guest
            && matches!(second.state, WorkerState::Ready | WorkerState::Crashed)
    });
    for replica in hosts {
        let place = WorkerPlace {
            host: replica.id.clone(),
            worker: 1,
            epoch: replica.workers[1].epoch,
            kind: PlaceKind::Guest,
        };
        let why = look.why(Rule::OwnerNeeds, look.need());
        plan.actions.push(Action::Release { function: function.key.clone(), place, why });
    }
}
