//! Runs: every step from every state that can be reached.

use std::collections::HashSet;

use super::*;

/// What an exploration has reached.
#[derive(Default)]
struct Explored {
    states: HashSet<u64>,
    hits: u64,
    refusals: u64,
    rests: u64,
}

/// The steps that lead to a violation.
type Counterexample = (Vec<Step>, String);

/// Takes every step from every reachable state.
fn explore(world: &World) -> Result<Explored, Counterexample> {
    let now = Instant::now();
    let mut explored = Explored::default();
    let start = State::new(world);
    explored.states.insert(start.fingerprint());
    let mut path: Vec<Step> = Vec::new();
    let steps = start.steps(world);
    let mut stack = vec![(start, steps)];
    while let Some((state, steps)) = stack.last_mut() {
        let Some(step) = steps.pop() else {
            stack.pop();
            path.pop();
            continue;
        };
        let mut next = state.clone();
        let deciding = matches!(step, Step::Serve | Step::AskOn);
        let had_found = matches!(
            &state.reader,
            Reader::Began { found: Some(Some(_)), .. } | Reader::Asking { .. }
        );
        path.push(step);
        if let Err(broken) = next.take(world, step, now) {
            return Err((path, broken));
        }
        if deciding && had_found && !matches!(next.reader, Reader::Asking { .. }) {
            // the decision is not part of the state, so compare with the state before
            let hit = match &state.reader {
                Reader::Began { found: Some(Some(held)), .. } => state.judge(0, &held.1) == VALID,
                _ => false,
            };
            *(if hit { &mut explored.hits } else { &mut explored.refusals }) += 1;
        }
        if !explored.states.insert(next.fingerprint()) {
            path.pop();
            continue;
        }
        if next.at_rest(world) {
            explored.rests += 1;
            if let Err(broken) = next.refills_are_hits(world, now) {
                return Err((path, broken));
            }
        }
        let steps = next.steps(world);
        stack.push((next, steps));
    }
    Ok(explored)
}

fn is_full() -> bool {
    std::env::var("TMC_MODEL").is_ok_and(|size| size == "full")
}

/// Explores, and checks that everything has happened at least once.
fn holds(name: &str, world: &World) {
    let began = Instant::now();
    match explore(world) {
        Ok(explored) => {
            let Explored { states, hits, refusals, rests } = explored;
            println!(
                "model: {name}: {} states, {hits} hits, {refusals} refusals, {rests} at rest, {:.1} s",
                states.len(),
                began.elapsed().as_secs_f64()
            );
            assert!(hits > 0 && refusals > 0 && rests > 0, "{name} shows nothing");
        }
        Err((path, broken)) => panic!("{name}: {broken} after {path:?}"),
    }
}

/// The mutant is caught, and the unchanged protocol is not.
fn is_caught(name: &str, world: World, mutant: Mutant) {
    let world = World { mutant, ..world };
    let (path, broken) = explore(&world).err().unwrap_or_else(|| panic!("{name} is not noticed"));
    assert!(broken.starts_with("served without"), "{name}: {broken}");
    println!("model: {name}: {broken} after {} steps", path.len());
}

/// Adds more for the full exploration.
fn sized(world: World) -> World {
    if is_full() { World { processes: 2, begin: true, ..world } } else { world }
}

/// The same with one process, because faults multiply the states.
fn sized_with_faults(world: World) -> World {
    if is_full() { World { begin: true, ..world } } else { world }
}

const FAULTS: World = World { crash: true, prune: true, ..SMALL };

#[test]
fn lookups_in_the_database_serve_nothing_stale() {
    holds("database", &sized(World { confirms: true, ..SMALL }));
}

#[test]
fn pruning_and_restarts_serve_nothing_stale() {
    holds("database, prune", &sized_with_faults(World { prune: true, ..SMALL }));
    holds("database, crash", &sized_with_faults(World { crash: true, ..SMALL }));
    if is_full() {
        let world = World { noise: true, ..FAULTS };
        holds("database, prune, confirming", &World { confirms: true, prune: true, ..SMALL });
        holds("database, crash, confirming", &World { confirms: true, crash: true, ..SMALL });
        holds("database, crash and prune", &world);
        holds(
            "database, crash and prune, small window",
            &World { window: 1, start_rows: 1, ..world },
        );
    }
}

#[test]
fn what_is_no_longer_remembered_is_asked_for() {
    holds("window of one row", &sized(World { window: 1, start_rows: 0, ..SMALL }));
}

#[test]
fn gaps_that_no_look_reads_are_asked_for() {
    let world = World { reading: NO_GAPS, ..SMALL };
    holds("no gaps read", &sized(world));
    holds("no gaps read, strict front", &World { tier: Tier::Strict, ..world });
    holds("no gaps read, bounded front", &World { tier: Tier::Bounded, ..world });
    holds("no gaps read, softly, two requests", &World { soft: true, requests: 2, ..world });
    if is_full() {
        holds("no gaps read, two requests", &World { requests: 2, ..world });
        holds("no gaps read, prune", &World { prune: true, ..world });
        holds("no gaps read, crash", &World { crash: true, ..world });
        holds("no gaps read, two rows", &World { rows: 2, ..world });
        let one = Reading { ranges: 1, ids: 1, between: 0 };
        holds("one id of the gaps read", &World { reading: one, rows: 2, ..world });
    }
}

#[test]
fn a_strict_front_serves_nothing_stale() {
    // a lookup for another page may confirm that nothing is new
    holds("strict front", &sized(World { tier: Tier::Strict, confirms: true, ..SMALL }));
}

#[test]
fn a_bounded_front_shows_its_own_writes_and_the_last_look() {
    let world = World { tier: Tier::Bounded, ..SMALL };
    holds("bounded front", &sized(world));
    holds("bounded front, two writers of its own", &sized(World { own: 2, ..world }));
}

#[test]
fn positions_with_gaps_are_needed() {
    is_caught("the largest id as position", SMALL, Mutant::LargestId);
    is_caught("gaps that are not read again", SMALL, Mutant::GapsNotRead);
    is_caught("a position from after the handler", SMALL, Mutant::LatePosition);
    is_caught("gaps closed without a locking read", SMALL, Mutant::NoLockRead);
}

#[test]
fn asking_about_gaps_is_needed() {
    let left_out = World { reading: NO_GAPS, ..SMALL };
    is_caught("gaps left out that are not asked about", left_out, Mutant::GapsNotAsked);
    let softly = World { soft: true, requests: 2, ..left_out };
    is_caught("what is remembered forgotten when it is asked", softly, Mutant::KnownForgotten);
}

#[test]
fn looks_are_needed() {
    is_caught("judging without a look", SMALL, Mutant::NoLook);
    let strict = World { tier: Tier::Strict, ..SMALL };
    is_caught("judging without a look, in front", strict, Mutant::NoLook);
    is_caught("own rows not awaited", World { tier: Tier::Bounded, ..SMALL }, Mutant::NotAwaited);
    is_caught("starting at the largest id", World { crash: true, ..SMALL }, Mutant::NotSettled);
}

#[test]
fn a_confirmation_needs_a_view_without_gaps_and_a_new_statement() {
    let world = World { confirms: true, ..SMALL };
    is_caught("confirmed in spite of gaps", world, Mutant::GapsNotConfirmed);
    is_caught("confirmed by an earlier statement", world, Mutant::EarlyNewest);
}

#[test]
fn the_floor_of_a_pruned_log_is_needed() {
    is_caught("pruning without a floor, and a restart", FAULTS, Mutant::NoFloor);
    let pruned = World { noise: true, prune: true, ..SMALL };
    is_caught("pruning without a floor, in gaps", pruned, Mutant::NoFloor);
}
