import CairnControl
import CairnIO
import Glibc

/// export, unexport, events.
enum OwnVerbs {
    private static func noEngine() -> Exit {
        Output.error("No engine is running. cairn create starts one; --engine and --runtime-dir choose another.")
        return Exit(status: 4)
    }

    static func export(_ arguments: Arguments) throws(Exit) {
        let unexport = arguments.words.first == "unexport"
        let listeners = arguments.listeners
        guard listeners.count == 1 else {
            Output.error("\(unexport ? "unexport" : "export") needs one --nbd unix:PATH or --nbd tcp:HOST:PORT.")
            throw Exit(status: 2)
        }
        let link = try EngineLink(arguments)
        var args: [JSON.Member] = [.init(key: "listen", value: .string(listeners[0]))]
        if let name = arguments.operands.first { args.append(.init(key: "name", value: .string(try checkedName(name)))) }
        let members = args
        if let name = arguments.operands.first {
            _ = try own { () throws(ControlError) in try link.call("info", .dictionary(["name": .string(name)])) }
        }
        guard let answer = try own({ () throws(ControlError) in try link.call(unexport ? "unexport" : "export", .object(members)) }) else {
            throw noEngine()
        }
        if let uri = answer["uri"]?.string { Output.out(uri) }
    }

    static func events(_ arguments: Arguments) throws(Exit) {
        let link = try EngineLink(arguments)
        let name = arguments.operands.first
        let found = try own { () throws(ControlError) -> Bool in
            var client: ControlClient
            do throws(SystemError) { client = try ControlClient(link.directory) } catch {
                if error.isAbsence { return false }
                throw ControlError(error)
            }
            var args: [JSON.Member] = [.init(key: "follow", value: .bool(arguments.has("follow")))]
            if let name { args.append(.init(key: "name", value: .string(name))) }
            try client.send("events", .object(args))
            while true {
                let (result, more): (JSON, Bool)
                do throws(ControlError) { (result, more) = try client.receive() } catch {
                    if error.errno == ECONNRESET { return true }  // the engine has ended
                    throw error
                }
                if let event = result["event"] { Output.out(event.text) }
                if !more { return true }
            }
        }
        if !found { throw noEngine() }
    }
}
