//! Enrollment: somebody else's token, somebody else's name, names that are none.

use std::time::Duration;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fleet_wire::enrollment::{
    Door, EnrollReply, EnrollRequest, EnrollStatement, EnrollmentIntent, EnrollmentToken, Outcome, Proof,
    open_reply, seal_request,
};
use fleet_wire::name::DeviceName;
use fleet_wire::subject;
use serde_json::json;

use super::client::{Heard, Login, RawClient};
use super::logins::{names, shown};
use super::member::Member;
use super::subjects::verdict;
use super::table::Table;
use crate::nats::Nats;

/// What a signature of a request is over, besides the statement.
const SIGNATURE_DOMAIN: &[u8] = b"harmony-fleet enrollment request v1\n";
/// How long a request may stay unanswered until it counts as not answered.
const SILENCE: Duration = Duration::from_secs(3);

/// Everything that somebody tries who has seen the id of a token, and not its secret. At the end the token's
/// owner uses it: nothing of that has used it up.
///
/// # Errors
/// When NATS is not there.
pub async fn without_the_secret(table: &mut Table, nats: &Nats, intent: &EnrollmentIntent) -> Result<()> {
    let thief = Member::fresh(intent)?;
    let door = Door::Token(intent.token.id.clone());
    let mut client = at_the_door(nats, &intent.token).await?;
    for subject in [">", "fleet.>", "_INBOX.>", "_INBOX._token.>", "fleet.enroll.v1.>", "$SYS.>"] {
        let heard = client.subscribe(subject, 9).await?;
        table.attempt(format!("as holder of a token's id: subscribe {subject}"), verdict(&heard));
    }
    let other = "alpha".parse::<DeviceName>()?;
    for subject in [
        subject::device_root(&other) + ".up.hello",
        Door::Device(other).subject(),
        "fleet.enroll.v1.token.00000000000000000000".to_owned(),
    ] {
        let heard = client.publish(&subject, "", b"x").await?;
        table.attempt(format!("as holder of a token's id: publish {subject}"), verdict(&heard));
    }

    let guessed: EnrollmentToken =
        format!("{}.{}", intent.token.id, URL_SAFE_NO_PAD.encode([7; 32])).parse()?;
    let statement = thief.statement(&door)?;
    let request = statement.with_token(&thief.identity, &guessed)?;
    let asked = thief.ask(&mut at_the_door(nats, &intent.token).await?, &door, &statement, &request).await;
    table.attempt("enroll with a token's id and another secret", membership(asked));

    // The owner's request, seen on its way, with the thief's keys in it.
    let owner = Member::fresh(intent)?;
    let statement = owner.statement(&door)?;
    let owners = statement.with_token(&owner.identity, &intent.token)?;
    let stolen = EnrollRequest {
        proof: owners.proof.clone(),
        ..thief.statement(&door)?.with_token(&thief.identity, &guessed)?
    };
    let asked = thief
        .ask(&mut at_the_door(nats, &intent.token).await?, &door, &thief.statement(&door)?, &stolen)
        .await;
    table.attempt("enroll with the MAC of the owner's request", membership(asked));

    let asked = owner.ask(&mut at_the_door(nats, &intent.token).await?, &door, &statement, &owners).await;
    table.control("enroll with the token itself afterwards", membership(asked));
    let asked = owner.ask(&mut at_the_door(nats, &intent.token).await?, &door, &statement, &owners).await;
    table.control("the same request again, as after a lost answer", membership(asked));
    let late = Member::fresh(intent)?;
    let asked = late.ask_with_token(nats, &intent.token).await;
    table.attempt("enroll other keys with a used token", membership(asked));
    Ok(())
}

/// A token of its own, for names that are not the token's or none at all.
///
/// # Errors
/// When NATS is not there.
pub async fn names_of_others(
    table: &mut Table,
    nats: &Nats,
    intent: &EnrollmentIntent,
    victim: &DeviceName,
) -> Result<()> {
    let own = Member::fresh(intent)?;
    let door = Door::Token(intent.token.id.clone());
    let mut client = at_the_door(nats, &intent.token).await?;
    let inbox = door.inbox_prefix();
    client.subscribe(&format!("{inbox}.>"), 1).await?;
    let enroller = intent.keys.verify(&intent.root_key)?.enroller_key;
    let enroller = enroller.ok_or_else(|| anyhow::anyhow!("no enroller's key"))?;

    let mut names: Vec<String> = names();
    names.push(victim.to_string());
    let mut asked = Vec::new();
    for (number, name) in names.iter().enumerate() {
        let like = own.statement(&door)?;
        let statement = json!({
            "subject": door.subject(), "nonce": like.nonce, "device": name,
            "identityKey": own.identity.public_key(), "curveKey": own.curve.public_key(),
        })
        .to_string();
        let signature = own.identity.sign(&[SIGNATURE_DOMAIN, statement.as_bytes()].concat())?;
        let request = EnrollRequest {
            proof: Proof::Token(URL_SAFE_NO_PAD.encode(intent.token.mac(&statement))),
            signature: URL_SAFE_NO_PAD.encode(signature),
            statement,
        };
        let message = seal_request(&request, &own.curve, &enroller)?;
        let reply = format!("{inbox}.n{number}");
        let heard = client.publish(&door.subject(), &reply, &message).await?;
        asked.push((name, reply, like, heard));
    }
    // The answers to all of them, whatever their order.
    let mut answers: Vec<Heard> = asked.iter_mut().flat_map(|(.., heard)| std::mem::take(heard)).collect();
    while let Some(heard) = client.hear(SILENCE).await {
        let closed = heard == Heard::Closed;
        answers.push(heard);
        if closed {
            break;
        }
    }
    for (name, reply, like, _) in &asked {
        let own_answer = answers
            .iter()
            .find(|heard| matches!(heard, Heard::Message(message) if message.subject == *reply));
        let heard: Vec<Heard> = own_answer.cloned().into_iter().collect();
        table.attempt(format!("enroll as {}", shown(name)), answer(&heard, like, &own, &enroller));
    }
    let statement = own.statement(&door)?;
    let request = statement.with_token(&own.identity, &intent.token)?;
    let asked = own.ask(&mut at_the_door(nats, &intent.token).await?, &door, &statement, &request).await;
    table.control(format!("enroll as {}, the token's own name", intent.device), membership(asked));
    Ok(())
}

/// At the door of members: new keys for somebody else.
///
/// # Errors
/// When NATS is not there.
pub async fn keys_for_others(table: &mut Table, nats: &Nats, own: &Member, victim: &Member) -> Result<()> {
    let door = Door::Device(own.name.clone());
    let new = nkeys::KeyPair::new_user();
    let statement =
        EnrollStatement::new(&door, victim.name.clone(), new.public_key().parse()?, own.curve_key()?);
    let request = statement.with_rotation(&new, &own.identity)?;
    let mut client = own.connect(nats).await?;
    let asked = own.ask(&mut client, &door, &statement, &request).await;
    table.attempt("new keys for another device, by the own door", membership(asked));

    let statement =
        EnrollStatement::new(&door, own.name.clone(), new.public_key().parse()?, own.curve_key()?);
    let request = statement.with_rotation(&new, &new)?;
    let mut client = own.connect(nats).await?;
    let asked = own.ask(&mut client, &door, &statement, &request).await;
    table.attempt("new keys, vouched for by the new key itself", membership(asked));
    Ok(())
}

/// A connection that a token's id lets in.
async fn at_the_door(nats: &Nats, token: &EnrollmentToken) -> Result<RawClient> {
    let mut client = RawClient::open(nats).await?;
    let login = Login::enrollment(token.id.as_str());
    client.login(&login).await?.map_err(|refusal| anyhow::anyhow!("the id is not let in: {refusal}"))?;
    Ok(client)
}

/// An answer as the result of an attempt.
pub fn membership(asked: Result<EnrollReply>) -> std::result::Result<String, String> {
    match asked.map(|reply| reply.outcome) {
        Ok(Outcome::Enrolled) => Ok("enrolled".to_owned()),
        Ok(Outcome::Pending(text)) => Err(format!("pending: {text}")),
        Ok(Outcome::Refused(refusal)) => Err(refusal.to_string()),
        Err(error) => Err(format!("{error:#}")),
    }
}

fn answer(
    heard: &[Heard],
    statement: &EnrollStatement,
    own: &Member,
    enroller: &fleet_wire::keys::CurveKey,
) -> std::result::Result<String, String> {
    let message = heard.iter().find_map(|heard| match heard {
        Heard::Message(message) => Some(message),
        _ => None,
    });
    match message {
        Some(message) => {
            membership(open_reply(&message.payload, statement, &own.curve, enroller).map_err(Into::into))
        }
        None if heard.is_empty() => Err("not answered".to_owned()),
        None => verdict(heard),
    }
}
