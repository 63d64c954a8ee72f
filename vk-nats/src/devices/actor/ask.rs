//! Requests and streams of the kubelet API.

use fleet_wire::{
    name::RequestId,
    stream::Frame,
    subject::{Leg, Subject},
};
use tokio::time::Instant;

use super::{Actor, Question};
use crate::devices::{down::DownError, stream::Delivery};

/// Requests of one device that may wait for their answer.
const MOST_QUESTIONS: usize = 256;

impl Actor {
    pub(super) async fn ask(&mut self, question: Question) {
        let Question { verb, id, body, answer } = question;
        self.questions.retain(|_, waiting| !waiting.is_closed());
        if !self.session.is_live() || self.questions.len() >= MOST_QUESTIONS {
            // The asker may have gone away.
            let _ = answer.send(Err(DownError::NotConnected { device: self.device.clone() }));
            return;
        }
        let subject = Subject::Down(self.device.clone(), verb).to_string();
        let message = match self.session.seal(&subject, None, &body) {
            Ok(message) => message,
            Err(error) => {
                let _ = answer.send(Err(error.into()));
                return;
            }
        };
        match self.context.courier.publish(subject, message).await {
            Ok(()) => {
                self.questions.insert(id, answer);
            }
            Err(reason) => {
                let _ = answer.send(Err(DownError::Publish { device: self.device.clone(), reason }));
            }
        }
    }

    pub(super) fn answer(&mut self, id: &RequestId, subject: &str, payload: &[u8]) {
        let opened = match self.session.open(subject, payload) {
            Ok(fleet_wire::session::Arrival::InSession(opened)) => opened,
            Ok(fleet_wire::session::Arrival::Hello(_)) => {
                return self.complain("answer", "Misplaced", &"a hello where an answer belongs");
            }
            Err(error) => return self.complain("answer", error.label(), &error),
        };
        self.heard();
        match self.questions.remove(id) {
            Some(waiting) => {
                self.context.metrics.message("answer", "Ok");
                // The asker may have stopped waiting.
                let _ = waiting.send(Ok(opened.payload));
            }
            // Late, or doubled: nothing is wrong with the device.
            None => self.context.metrics.message("answer", "Unasked"),
        }
    }

    pub(super) async fn frame(&mut self, id: &RequestId, subject: &str, payload: &[u8]) {
        let frame = match self.session.open_frame(subject, payload) {
            Ok(opened) => match opened.bytes().map(Frame::decode) {
                Ok(Ok(frame)) => frame,
                Ok(Err(error)) => return self.complain("stream", "Frame", &error),
                Err(error) => return self.complain("stream", error.label(), &error),
            },
            Err(error) => return self.complain("stream", error.label(), &error),
        };
        self.upkeep.heard(Instant::now(), false);
        let closing = matches!(frame, Frame::End { .. } | Frame::Cancel);
        let delivery = self.streams.deliver(id, frame);
        self.context.metrics.message(
            "stream",
            match delivery {
                Delivery::Taken => "Ok",
                Delivery::NoReader => "NoReader",
                Delivery::Overrun => "Overrun",
            },
        );
        // A writer without a reader would go on for ever.
        if delivery != Delivery::Taken && !closing {
            self.send_frame(id, 0, &Frame::Cancel).await;
        }
    }

    pub(super) async fn send_frame(&mut self, stream: &RequestId, number: u64, frame: &Frame) {
        let subject = Subject::Stream(self.device.clone(), stream.clone(), Leg::Down).to_string();
        match self.session.seal_frame(&subject, number, &frame.encode()) {
            Ok(message) => self.publish(subject, message).await,
            Err(error) => tracing::debug!(%error, "a frame cannot be sealed"),
        }
    }
}
