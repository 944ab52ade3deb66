import Testing

@Test func placeholderCairnTargetsTests() {}
