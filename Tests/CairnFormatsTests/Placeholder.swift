import Testing

@Test func placeholderCairnFormatsTests() {}
