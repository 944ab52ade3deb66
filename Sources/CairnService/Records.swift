import CairnCore
import CairnEngine
import CairnIO
import Glibc

/// What a target wants remembered of a device: the state directory's record, and for files an extended attribute. And what it wants to know
/// of it for good. Both need a sync, so a thread of their own does it, and the reactor goes on.
extension Service {
    func identify(_ request: (target: UInt32, device: DeviceID, host: UInt32), _ reactor: Reactor) {
        guard let host = reactor.hosts[Int(request.host)] else { return }
        let known = host.facts.identity, isBlock = host.file.isBlock
        let copy = dup(host.file.fd)
        startThread {
            var identity = known
            if copy >= 0 {
                identity = DeviceOpener.identifyDurably(HostFile(fd: copy, isBlock: isBlock), known)
                close(copy)
            }
            let answer = identity
            self.post { $0.engine.identified(target: request.target, device: request.device, identity: answer) }
        }
    }

    func remember(_ request: (target: UInt32, device: DeviceID, host: UInt32, record: BackingRecord), _ reactor: Reactor) {
        guard let host = reactor.hosts[Int(request.host)] else { return }
        let identity = host.facts.identity, record = request.record, isFile = !host.file.isBlock
        let target = request.target, device = request.device
        // The device may be closed by force meanwhile: the thread has a descriptor of its own.
        let copy = dup(host.file.fd)
        startThread {
            var status = IOStatus.ok
            do throws(SystemError) {
                guard let state = self.state else { throw SystemError("no state directory", ENOENT) }
                try state.remember(identity, record, file: isFile && copy >= 0 ? copy : nil)
            } catch {
                status = IOStatus(errno: error.errno)
                log(error.sentence)
            }
            if copy >= 0 { close(copy) }
            let answer = status
            self.post { $0.engine.recorded(target: target, device: device, status: answer) }
        }
    }

    /// A job on a thread of its own: they are rare and long.
    func carryOut(_ job: JobRequest) {
        startThread {
            let result = job.carryOut()
            self.post { $0.engine.jobFinished(job.cookie, result) }
        }
    }
}
