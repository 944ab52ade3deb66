enum FormatCacheVerb { static func run(_ arguments: Arguments) throws(Exit) { throw .failed } }
enum ProbeVerb { static func run(_ arguments: Arguments) throws(Exit) { throw .failed } }
enum WipeVerb { static func run(_ arguments: Arguments) throws(Exit) { throw .failed } }
