//! Requests and streams of the kubelet API.

use fleet_wire::{
    name::RequestId,
    stream::Frame,
    subject::{self, Leg, Subject},
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
        // A stream is registered before it is asked for: its frames come after this subscription.
        self.listen_to_frames().await;
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

    /// Subscribes to the streams of the device if somebody reads one: most devices have none, most of the time.
    async fn listen_to_frames(&mut self) {
        if self.frames.is_some() || !self.streams.any() {
            return;
        }
        match self.context.ear.subscribe(subject::stream_up_wildcard(&self.device)).await {
            Ok(frames) => self.frames = Some(frames),
            // The reader gives up after a silence.
            Err(reason) => tracing::warn!(reason, "the device's streams cannot be subscribed to"),
        }
    }

    /// Ends that subscription some time after the last stream, so that a device which goes on writing is told.
    pub(super) fn stop_listening_to_frames(&mut self) {
        if !self.streams.any() {
            self.frames = None;
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
        self.upkeep.heard(Instant::now());
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
